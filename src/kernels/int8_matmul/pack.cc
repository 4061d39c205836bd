#include <algorithm>
#include <cstring>

#include "formats/panels.h"
#include "kernels/int8_matmul/int8_matmul.h"

namespace tessera::int8_matmul {
namespace {

// One output into its column of a panel that is zero, 4 inputs at a time.
void pack_output(const QuantizedMatrix& matrix, int64_t output, int8_t* column) {
  const auto* values = static_cast<const int8_t*>(matrix.values) + output * matrix.cols;
  const int64_t whole = matrix.cols / 4 * 4;
  for (int64_t k = 0; k < whole; k += 4) std::memcpy(column + k * kPanelOutputs, values + k, 4);
  std::copy(values + whole, values + matrix.cols, column + whole * kPanelOutputs);
}

int32_t sum_of(const QuantizedMatrix& matrix, int64_t output) {
  const auto* values = static_cast<const int8_t*>(matrix.values) + output * matrix.cols;
  int32_t sum = 0;
  for (int64_t k = 0; k < matrix.cols; ++k) sum += values[k];
  return sum;
}

}  // namespace

void pack(const std::vector<QuantizedMatrix>& weights, const Packed& packed, Exec exec) {
  const int64_t bytes = panel_bytes(weights.front().inputs());
  const int64_t first = exec.begin * kPanelOutputs, last = exec.end * kPanelOutputs;
  std::fill(packed.panels + exec.begin * bytes, packed.panels + exec.end * bytes, int8_t{0});
  std::fill(packed.scales + first, packed.scales + last, 0.0f);
  std::fill(packed.sums + first, packed.sums + last, 0);
  int64_t start = 0;  // the matrix's first output
  for (const QuantizedMatrix& matrix : weights) {
    const int64_t end = std::min(last, start + matrix.outputs());
    for (int64_t n = std::max(first, start); n < end; ++n) {
      int8_t* panel = packed.panels + n / kPanelOutputs * bytes;
      pack_output(matrix, n - start, panel + n % kPanelOutputs * 4);
      packed.scales[n] = matrix.scale(n - start, 0);
      packed.sums[n] = sum_of(matrix, n - start);
    }
    start += matrix.outputs();
  }
}

}  // namespace tessera::int8_matmul
