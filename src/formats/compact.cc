#include "formats/compact.h"

#include <fmt/format.h>

#include <cstring>

#include "formats/checks.h"

namespace tessera {
namespace {

// Whether what is kept are whole rows of the matrix as it is stored, else whole columns.
bool keeps_rows(const CompactMatrix& matrix) {
  return (matrix.axis == KeptAxis::kOutputs) == (matrix.kept.order == MatrixOrder::kOutputRows);
}

}  // namespace

Status validate(const CompactMatrix& matrix) {
  const bool rows = keeps_rows(matrix);
  TESSERA_RETURN_IF_ERROR(check_extents(rows ? matrix.whole : matrix.kept.rows,
                                        rows ? matrix.kept.cols : matrix.whole));
  const int64_t count = matrix.kept_count();
  if (count < 0 || count > matrix.whole) {
    return invalid_input(fmt::format("expected at most {} kept {}, found {}", matrix.whole,
                                     matrix.axis == KeptAxis::kOutputs ? "outputs" : "inputs",
                                     count));
  }
  return check_ascending({"index", matrix.index, 0, count, matrix.whole});
}

void to_dense(const CompactMatrix& matrix, void* target) {
  const int64_t bytes = static_cast<int64_t>(size_bytes(matrix.kept.dtype));
  auto* dense = static_cast<char*>(target);
  const auto* kept = static_cast<const char*>(matrix.kept.data);
  const int64_t count = matrix.kept_count();
  if (keeps_rows(matrix)) {
    const int64_t row_bytes = matrix.kept.cols * bytes;
    std::memset(dense, 0, static_cast<size_t>(matrix.whole * row_bytes));
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(dense + matrix.index[i] * row_bytes, kept + i * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
    return;
  }
  std::memset(dense, 0, static_cast<size_t>(matrix.kept.rows * matrix.whole * bytes));
  for (int64_t row = 0; row < matrix.kept.rows; ++row) {
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(dense + (row * matrix.whole + matrix.index[i]) * bytes,
                  kept + (row * count + i) * bytes, static_cast<size_t>(bytes));
    }
  }
}

int64_t packed_bytes(const CompactMatrix& matrix) {
  return matrix.kept.rows * matrix.kept.cols * static_cast<int64_t>(size_bytes(matrix.kept.dtype)) +
         4 * matrix.kept_count();
}

int64_t flops_per_row(const CompactMatrix& matrix) {
  return 2 * matrix.kept.rows * matrix.kept.cols;
}

}  // namespace tessera
