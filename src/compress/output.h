#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "tessera/compress.h"

namespace tessera {

// A directory may be named with a slash behind it.
std::string without_slashes(std::string path);

// Whether a run may write there: nothing stands there yet, or a model that Tessera wrote and that
// may be replaced; and neither lies inside the other.
Status check_target(const std::string& source, const std::string& target, Existing existing);

// Whether there is room for so many bytes where the target will stand.
Status check_space(const std::string& target, int64_t needed_bytes);

// The directory TARGET.part in which a run puts together what becomes TARGET by a rename. As long
// as this lives it is locked: a second run that writes to the same target is refused. On file
// systems without locks there is none.
class OutputDirectory {
 public:
  // Makes the directory, or takes over one that no run is writing to.
  static Result<OutputDirectory> open(const std::string& target, Existing existing);
  OutputDirectory(OutputDirectory&& other) noexcept;
  OutputDirectory& operator=(OutputDirectory&&) = delete;
  ~OutputDirectory();

  const std::string& target() const { return target_; }
  std::string path() const { return target_ + ".part"; }
  // Whether nothing in it is worth keeping: what a run that was killed leaves before it has come to
  // anything that could be taken up.
  bool is_as_new() const;
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

  std::string target_;
  Existing existing_;
  int lock_ = -1;  // an open directory
};

// A key of a safetensors file's metadata that says that Tessera wrote it.
inline constexpr const char* kWriterKey = "writer";

}  // namespace tessera
