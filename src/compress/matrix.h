#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "compress/item.h"
#include "compress/mask.h"
#include "compress/pass.h"
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

// A matrix on its way through the pipeline, in f32 as W [outputs, inputs].
struct Matrix {
  Item item;
  DType dtype = DType::kF32;  // of its values in the file
  Removed removed = Removed::kNothing;
  Weight whole;
  Weight pruned;  // what is left, rounded to dtype once it is final
  std::optional<TileMask> mask;
  std::vector<float> bias;  // empty: none
  DType bias_dtype = DType::kF32;
  bool bias_changed = false;
  double output_error = 0;  // NaN: not known

  // The share of its weights that the mask prunes.
  double share() const;
  double weight_error() const;  // |W - W'| / |W|
};

// Reads an item's matrix and bias, whatever format the tensor has; finite values only.
Result<Matrix> read_item(const Sources& sources, const Item& item);

// Rounds what is left to the file's dtypes.
void round_to_file(Matrix& matrix);

// The matrix in the format that its unit asks for, or dense where that is not larger.
Result<PackedMatrix> pack(const Matrix& matrix);

// f32 as values of an f32, f16 or bf16 tensor.
std::vector<char> narrowed(const std::vector<float>& values, DType dtype);

}  // namespace tessera
