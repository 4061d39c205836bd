#pragma once

#include <cstdint>
#include <vector>

#include "base/dtype.h"
#include "formats/stored_matrix.h"

namespace tessera {

// A dense matrix as a checkpoint holds it, row-major; the memory belongs to the checkpoint.
struct DenseView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  MatrixOrder order = MatrixOrder::kOutputRows;

  int64_t outputs() const { return order == MatrixOrder::kOutputRows ? rows : cols; }
  int64_t inputs() const { return order == MatrixOrder::kOutputRows ? cols : rows; }

  static constexpr const WeightFormat& kFormat = weight_formats::dense;
  static DenseView of(const StoredMatrix& matrix);
  operator StoredMatrix() const;
};

// Matrices of equal inputs whose outputs are laid one after another: Q, K and V as one map.
using DenseStack = std::vector<DenseView>;

}  // namespace tessera
