#include <cstring>

#include "kernels/csr_matmul/csr_matmul.h"

namespace tessera::csr_matmul {
namespace {

// Calls visit(output, input, index) for the kept elements, by rows of the matrix.
template <typename Visit>
void for_each(const CsrMatrix& matrix, Visit visit) {
  const bool by_output = matrix.order == MatrixOrder::kOutputRows;
  for (int64_t row = 0; row < matrix.rows; ++row) {
    for (int64_t i = matrix.offsets[row]; i < matrix.offsets[row + 1]; ++i) {
      const int64_t col = matrix.columns[i];
      visit(by_output ? row : col, by_output ? col : row, i);
    }
  }
}

float value(const CsrMatrix& matrix, int64_t i) {
  float value = 0;
  const auto bytes = static_cast<int64_t>(size_bytes(matrix.dtype));
  convert_to_f32(static_cast<const char*>(matrix.values) + i * bytes, matrix.dtype, 1, &value);
  return value;
}

void store(float value, DType type, int64_t i, char* values) {
  if (type == DType::kF32) {
    std::memcpy(values + i * 4, &value, 4);
  } else {
    const uint16_t bits = f32_to_bf16(value);
    std::memcpy(values + i * 2, &bits, 2);
  }
}

}  // namespace

Packed pack(const std::vector<CsrMatrix>& stack, DType weight_type) {
  int64_t outputs = 0;
  for (const CsrMatrix& matrix : stack) outputs += matrix.outputs();
  Packed packed;
  packed.offsets.assign(static_cast<size_t>(outputs) + 1, 0);
  int64_t first = 0;
  for (const CsrMatrix& matrix : stack) {
    for_each(matrix, [&](int64_t output, int64_t, int64_t) {
      ++packed.offsets[static_cast<size_t>(first + output) + 1];
    });
    first += matrix.outputs();
  }
  for (size_t n = 1; n < packed.offsets.size(); ++n) packed.offsets[n] += packed.offsets[n - 1];
  const auto kept = static_cast<size_t>(packed.offsets.back());
  packed.columns.resize(kept);
  packed.values.resize(kept * size_bytes(weight_type));
  // Where each output's next element goes; rows that are inputs come in ascending order too.
  std::vector<int32_t> next(packed.offsets.begin(), packed.offsets.end() - 1);
  first = 0;
  for (const CsrMatrix& matrix : stack) {
    for_each(matrix, [&](int64_t output, int64_t input, int64_t i) {
      const int32_t target = next[static_cast<size_t>(first + output)]++;
      packed.columns[static_cast<size_t>(target)] = static_cast<uint16_t>(input);
      store(value(matrix, i), weight_type, target, packed.values.data());
    });
    first += matrix.outputs();
  }
  return packed;
}

}  // namespace tessera::csr_matmul
