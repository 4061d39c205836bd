#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "io/model_directory.h"
#include "tessera/compress.h"

namespace tessera {

// Files that a run writes beside those that it copies, kCompressedFile and config.json.
inline constexpr const char* kWeightsFile = "model.safetensors";
inline constexpr const char* kMasksFile = "masks.safetensors";
inline constexpr const char* kCard = "README.md";
inline constexpr const char* kBaseCard = "base-model-card.md";
inline constexpr const char* kTrainingLog = "training.jsonl";
inline constexpr const char* kTrainingCurve = "training.svg";

// What a training keeps in TARGET.part to be taken up, beside its log.
inline constexpr const char* kTrainingState = "state.safetensors";
// And there, the model that it began with, where that is not the source.
inline constexpr const char* kTrainingBeginning = "beginning";

// A key of a safetensors file's metadata that says that Tessera wrote it.
inline constexpr const char* kWriterKey = "writer";

// Whether a run may write there: nothing stands there yet, or a model that Tessera wrote and that
// may be replaced, with no files but those that the new one has or that Tessera writes; and neither
// lies inside the other.
Status check_target(const ModelDirectory& source, const std::string& target, Existing existing);

// Whether there is room for so many bytes where the target will stand.
Status check_space(const std::string& target, int64_t needed_bytes);

// The directory TARGET.part in which a run puts together what becomes TARGET by a rename. As long
// as this lives it is locked: a second run that writes to the same target is refused. On file
// systems without locks there is none. At whatever moment a run is killed, a later one can tell
// what it finds: each thing is renamed to a name that ends in ".tmp" before it is removed.
class OutputDirectory {
 public:
  // Makes the directory, or takes over one that no run is writing to and that holds nothing but
  // what runs write. A target that a killed run had moved away is moved back first.
  static Result<OutputDirectory> open(const std::string& target, Existing existing);
  // The same for a run that can be taken up, which `run` describes: what an equal one left stays.
  // What another one left is kInvalidInput, or goes where the target may be replaced.
  static Result<OutputDirectory> open(const std::string& target, const std::string& run,
                                      Existing existing);
  OutputDirectory(OutputDirectory&& other) noexcept;
  OutputDirectory& operator=(OutputDirectory&&) = delete;
  ~OutputDirectory();

  const std::string& target() const { return target_; }
  std::string path() const { return target_ + ".part"; }
  // Where a run says what it is, before it writes anything that could be taken up.
  std::string run_file() const;
  // Whether a run is there that could be taken up; nothing else is worth keeping.
  bool has_run() const;
  // Removes what is there, the run's file last.
  Status clear() const;
  // Where the finished model is put together, empty.
  Result<std::string> make_whole() const;
  // Makes that directory the target, in the place of one that may be replaced, and removes the
  // rest.
  Status finish() const;
  Status discard() const;

 private:
  OutputDirectory(std::string target, Existing existing, int lock)
      : target_(std::move(target)), existing_(existing), lock_(lock) {}
  Status remove_temporaries() const;
  Status put_in_place() const;
  Status put_back() const;

  std::string target_;
  Existing existing_;
  int lock_ = -1;  // an open directory
};

}  // namespace tessera
