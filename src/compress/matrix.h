#pragma once

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "compress/item.h"
#include "compress/mask.h"
#include "formats/packed.h"
#include "io/compressed.h"
#include "tessera/compress.h"

namespace tessera {

// Where a layer's tensors are read from: the first checkpoint that has them.
struct Source {
  const Checkpoint* checkpoint = nullptr;
  const TensorFormats* formats = nullptr;
};
using Sources = std::vector<Source>;

// What was removed of a matrix: what its mask is made of, and with it the format it is stored in.
enum class Removed {
  kNothing,
  kTiles,
  kElements,
  kOutputs,
  kOutputsOfHeads,  // of values: equally many of every key/value head
  kInputs,
  // In the output matrix, the inputs that come from the outputs that its layer's values lose.
  kInputsOfValues,
};

// How the source has rounded a matrix, as Integers have it.
struct SourceRounding {
  Precision precision = Precision::kInt8;
  int32_t group = 0;
  std::vector<float> scales;        // [outputs, groups]
  std::vector<float> input_scales;  // [inputs], or empty
};

// In which integers the source has an item's matrix; nothing: in floats.
std::optional<Precision> source_precision(const Source& source, const Item& item);

// A matrix on its way through the pipeline, in f32 as W [outputs, inputs].
struct Matrix {
  Item item;
  DType dtype = DType::kF32;  // of its values in the file, where they are floats
  Removed removed = Removed::kNothing;
  Weight whole;
  Weight pruned;                     // what is left, rounded to dtype once it is final
  std::optional<TileMask> mask;      // of a matrix that is stored sparse already, too
  std::optional<Integers> integers;  // what is left, once it is quantized
  std::optional<SourceRounding> rounding;
  bool waits = false;  // to be changed with a later map of its layer; other passes leave it alone
  std::vector<float> bias;  // empty: none
  DType bias_dtype = DType::kF32;
  bool bias_changed = false;
  std::vector<double> shift;  // that the bias took up of means; empty: nothing
  // |(W - W') X| / |W X| on the calibration text; NaN: not known.
  double output_error = std::numeric_limits<double>::quiet_NaN();

  // The share of its weights that the mask prunes.
  double share() const;
  double weight_error() const;  // |W - W'| / |W|
};

// Reads an item's matrix and bias, whatever format the tensor has; finite values only. One that is
// stored sparse has its mask and what it says was removed.
Result<Matrix> read_item(const Sources& sources, const Item& item);

// Rounds what is left, or the bias alone, to the file's dtypes.
void round_to_file(Matrix& matrix);
void round_bias(Matrix& matrix);

// Adds what outputs lose on average to a bias, which there is.
void move_bias(const std::vector<double>& shift, Matrix& matrix);

// The matrix quantized where it is, else in the format that its unit asks for, or dense where that
// is not larger.
Result<PackedMatrix> pack(const Matrix& matrix);

// Values [outputs, inputs] row-major in the order of the file.
std::vector<char> in_order(const std::vector<char>& values, size_t value_bytes, const Item& item);

// f32 as values of an f32, f16 or bf16 tensor.
std::vector<char> narrowed(const std::vector<float>& values, DType dtype);

}  // namespace tessera
