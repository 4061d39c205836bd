#include "formats/csr.h"

#include <cstring>

#include "formats/checks.h"

namespace tessera {

Status validate(const CsrMatrix& matrix, int64_t kept) {
  TESSERA_RETURN_IF_ERROR(check_extents(matrix.rows, matrix.cols));
  TESSERA_RETURN_IF_ERROR(check_offsets({"row", matrix.offsets, matrix.rows}, kept));
  for (int64_t row = 0; row < matrix.rows; ++row) {
    TESSERA_RETURN_IF_ERROR(check_ascending(
        {"columns", matrix.columns, matrix.offsets[row], matrix.offsets[row + 1], matrix.cols}));
  }
  return {};
}

void to_dense(const CsrMatrix& matrix, void* target) {
  const int64_t bytes = static_cast<int64_t>(size_bytes(matrix.dtype));
  auto* dense = static_cast<char*>(target);
  const auto* values = static_cast<const char*>(matrix.values);
  std::memset(dense, 0, static_cast<size_t>(matrix.rows * matrix.cols * bytes));
  for (int64_t row = 0; row < matrix.rows; ++row) {
    for (int64_t i = matrix.offsets[row]; i < matrix.offsets[row + 1]; ++i) {
      std::memcpy(dense + (row * matrix.cols + matrix.columns[i]) * bytes, values + i * bytes,
                  static_cast<size_t>(bytes));
    }
  }
}

int64_t packed_bytes(const CsrMatrix& matrix) {
  return matrix.kept() * (static_cast<int64_t>(size_bytes(matrix.dtype)) + 4) +
         4 * (matrix.rows + 1);
}

int64_t flops_per_row(const CsrMatrix& matrix) { return 2 * matrix.kept(); }

}  // namespace tessera
