#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/status.h"
#include "formats/dense.h"

namespace tessera {

// A matrix of which only single elements are kept, compressed by rows: the baseline of irregular
// pruning. The memory belongs to the checkpoint.
//   offsets: [rows + 1], columns: [kept] ascending within a row, values: [kept]
struct CsrMatrix {
  const void* values = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  MatrixOrder order = MatrixOrder::kOutputRows;
  const int32_t* offsets = nullptr;
  const int32_t* columns = nullptr;

  int64_t kept() const { return offsets[rows]; }
  int64_t outputs() const { return order == MatrixOrder::kOutputRows ? rows : cols; }
  int64_t inputs() const { return order == MatrixOrder::kOutputRows ? cols : rows; }

  static constexpr const WeightFormat& kFormat = weight_formats::csr;
  static CsrMatrix of(const StoredMatrix& matrix);
  operator StoredMatrix() const;
};

// As for tiles; kept: how many values there are.
Status validate(const CsrMatrix& matrix, int64_t kept);
// target: [rows, cols] of the matrix's own dtype, every element is written.
void to_dense(const CsrMatrix& matrix, void* target);
int64_t flops_per_row(const CsrMatrix& matrix);  // of a product with one row

}  // namespace tessera
