#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "compress/matrix.h"
#include "compress/tables.h"
#include "io/checkpoint.h"
#include "io/compressed.h"
#include "tessera/compress.h"

namespace tessera {

// A checkpoint with what its config says of its tensors' formats. It stays where it is.
struct OpenCheckpoint {
  Checkpoint checkpoint;
  TensorFormats formats;
  static Result<std::unique_ptr<OpenCheckpoint>> open(const std::string& directory);
  Source source() const { return {&checkpoint, &formats}; }
};

// Whether a run may write there: nothing stands there yet, and it is not inside the source.
Status check_target(const std::string& source, const std::string& target);

// Whether there is room for so many bytes where the target will stand.
Status check_space(const std::string& target, int64_t needed_bytes);

// The directory TARGET.part in which a run collects the layers it is done with, each a checkpoint
// of its own, so that an interrupted run can be taken up. What a run is, its options and its
// source, stands in run.json there.
class PartDirectory {
 public:
  // Makes the directory, or takes up one of the same run; kInvalidInput for one of another run.
  static Result<PartDirectory> open(const std::string& target, const std::string& run);

  bool has_layer(int32_t layer) const;
  std::string layer_path(int32_t layer) const;
  // Writes a layer whole or not at all: the matrices that were to be compressed, of which a
  // tensor's all stand here, and biases that changed.
  Status write_layer(int32_t layer, const std::vector<Matrix>& matrices,
                     const std::vector<MatrixReport>& reports) const;
  // The same for tables, as if they were a layer.
  Status write_tables(int32_t layer, std::vector<RoundedTable> tables) const;
  Result<std::vector<MatrixReport>> read_reports(int32_t layer) const;
  // Where the finished checkpoint is put together, empty.
  Result<std::string> make_whole() const;
  // Makes that directory the target and removes the rest.
  Status finish() const;

 private:
  explicit PartDirectory(std::string target) : target_(std::move(target)) {}
  std::string path() const { return target_ + ".part"; }
  std::string target_;
};

// Puts a checkpoint together: the source's tensors but those that a layer has anew, its config with
// the section, and its other files but weights in other formats. section: JSON without "tensors".
Status write_checkpoint(const OpenCheckpoint& source,
                        const std::vector<std::unique_ptr<OpenCheckpoint>>& layers,
                        const std::string& section, const std::string& directory);

// SHA-256 of the source's tensor files by name, and of several as one, for provenance.
Result<std::map<std::string, std::string>> hash_tensor_files(const std::string& directory);

}  // namespace tessera
