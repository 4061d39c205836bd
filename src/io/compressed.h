#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "formats/packed.h"
#include "formats/weight_format.h"
#include "io/checkpoint.h"

// Matrices of a checkpoint that are not dense: what the `tessera` section of config.json says of
// them and the tensors that hold them, as docs/format.md has it.
namespace tessera {

// The format version that is written, and the newest that is read.
inline constexpr int64_t kFormatVersion = 1;

// How a matrix is stored: an entry of the section.
struct TensorFormat {
  const WeightFormat* format = nullptr;  // null: a stack
  int64_t rows = 0;                      // of the matrix written out, as the format has them
  int64_t cols = 0;
  std::vector<Attribute> attributes = {};
  std::vector<std::string> parts = {};  // of a stack: matrices whose outputs follow each other

  bool is_stack() const { return format == nullptr; }
  bool is_dense() const { return format == &weight_formats::dense; }
};
std::string to_json(const TensorFormat& format);

// The `tessera` section of config.json; empty where there is none.
class TensorFormats {
 public:
  // Unknown versions and formats are kUnsupported.
  static Result<TensorFormats> read(const Config& config);

  // Null: the tensor is dense.
  const TensorFormat* find(std::string_view name) const;
  bool has_stacks() const;
  const std::map<std::string, TensorFormat, std::less<>>& tensors() const { return tensors_; }

 private:
  std::map<std::string, TensorFormat, std::less<>> tensors_;
};

// The tensors of a stack's parts, or the tensor itself where it is no stack.
std::vector<std::string> parts_of(const TensorFormats& formats, const std::string& name);

// Whether some matrix is stored as integers.
bool has_integers(const Checkpoint& checkpoint, const TensorFormats& formats);

// Whether there is a matrix of this name, in any format.
bool has_matrix(const Checkpoint& checkpoint, const TensorFormats& formats, std::string_view name);

// The tensors that hold a matrix, of a stack those of all its parts. Those of a quantized matrix
// need not have input scales.
std::vector<std::string> tensors_of(const TensorFormats& formats, const std::string& name);

// A matrix as the checkpoint has it, validated. Its indices and its scales in f32 are owned, what
// else it has stays in the checkpoint.
struct ReadMatrix {
  PackedMatrix packed;
  std::vector<TensorView> floats;   // parts in the checkpoint, to check for NaN
  std::vector<TensorView> tensors;  // all that were read, to release
};
// name: of no stack. expected: the shape that a dense matrix must have, -1 for any, and its order,
// which all but quantized ones share.
Result<ReadMatrix> read_matrix(const Checkpoint& checkpoint, const TensorFormats& formats,
                               const std::string& name, const DenseView& expected);

// Tensors to write with the memory of indices of 16 bits. What the matrices point to stays theirs.
struct TensorList {
  std::vector<TensorToWrite> tensors;
  std::deque<std::vector<int16_t>> short_indices;
};

// Adds the tensors that hold a matrix, and gives what the section must say of it.
TensorFormat add_matrix(const std::string& name, const PackedMatrix& matrix, TensorList& list);

// Bytes of the tensors that hold a matrix.
int64_t tensor_bytes(const PackedMatrix& matrix);
// Bytes that the tensors of a matrix take in a safetensors file with their entries in its header
// and in config.json, to choose the smaller of two forms by.
int64_t file_bytes(const std::string& name, const PackedMatrix& matrix);

}  // namespace tessera
