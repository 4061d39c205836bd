#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "compress/matrix.h"
#include "compress/output.h"
#include "compress/tables.h"
#include "io/checkpoint.h"
#include "io/compressed.h"
#include "io/safetensors.h"
#include "tessera/compress.h"

namespace tessera {

// A checkpoint with what its config says of its tensors' formats. It stays where it is.
struct OpenCheckpoint {
  Checkpoint checkpoint;
  TensorFormats formats;
  static Result<std::unique_ptr<OpenCheckpoint>> open(const std::string& directory);
  Source source() const { return {&checkpoint, &formats}; }
};

// The directory TARGET.part in which a run collects the layers it is done with, each a checkpoint
// of its own, so that an interrupted run can be taken up. What a run is, its options and its
// source, stands in run.json there.
class PartDirectory {
 public:
  // Makes the directory, or takes up one of the same run; kInvalidInput for one of another run, of
  // which nothing is kept where the target may be replaced, and while another run is at work there.
  static Result<PartDirectory> open(const std::string& target, const std::string& run,
                                    Existing existing);

  bool has_layer(int32_t layer) const;
  std::string layer_path(int32_t layer) const;
  // Writes a layer whole or not at all: the matrices that were to be compressed, of which a
  // tensor's all stand here, and biases that changed.
  Status write_layer(int32_t layer, const std::vector<Matrix>& matrices,
                     const std::vector<MatrixReport>& reports) const;
  // The same for tables, as if they were a layer.
  Status write_tables(int32_t layer, std::vector<RoundedTable> tables) const;
  Result<std::vector<MatrixReport>> read_reports(int32_t layer) const;
  const OutputDirectory& output() const { return output_; }

 private:
  explicit PartDirectory(OutputDirectory output) : output_(std::move(output)) {}
  std::string path() const { return output_.path(); }
  OutputDirectory output_;
};

// Reports as JSON and back.
std::string reports_text(const std::vector<MatrixReport>& reports);
std::vector<MatrixReport> parse_reports(const std::string& text);

// What a checkpoint has that its source has not.
struct Changes {
  std::span<const std::unique_ptr<OpenCheckpoint>> layers = {};
  std::span<const TensorToWrite> tensors = {};  // others, dense
  std::string section = {};                     // JSON without "tensors"
  std::optional<int32_t> kv_heads = {};         // as the config says; nothing: as many as it does
};
// Puts a checkpoint together: the source's tensors but those that the changes have anew, and its
// config with the section. Without compressed tensors and a section it is a plain checkpoint.
Status write_checkpoint(const OpenCheckpoint& source, const Changes& changes,
                        const std::string& directory);

}  // namespace tessera
