#include "formats/stored_matrix.h"

#include "formats/weight_format.h"

namespace tessera {

int64_t MatrixPart::bytes() const {
  if (!is_present()) return 0;
  auto total = static_cast<int64_t>(size_bytes(dtype));
  for (const int64_t extent : shape) total *= extent;
  return total;
}

DType dtype(const StoredMatrix& matrix) {
  const DType first = matrix.part(0).dtype;
  return first == DType::kI8 || first == DType::kU8 ? DType::kF32 : first;
}

int64_t dense_bytes(const StoredMatrix& matrix) {
  return matrix.rows * matrix.cols * static_cast<int64_t>(size_bytes(dtype(matrix)));
}

void to_dense(const StoredMatrix& matrix, void* target) { matrix.format->to_dense(matrix, target); }

int64_t packed_bytes(const StoredMatrix& matrix) {
  int64_t total = 0;
  for (const MatrixPart& part : matrix.parts) total += part.bytes();
  return total;
}

int64_t flops_per_row(const StoredMatrix& matrix) { return matrix.format->flops_per_row(matrix); }

const char* format_name(const StoredMatrix& matrix) { return matrix.format->name; }

}  // namespace tessera
