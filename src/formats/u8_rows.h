#pragma once

#include <cstdint>

namespace tessera {

// Rows of x as bytes, each with a scale and a zero (asymmetric, by token):
//   x[m, k] ~ scales[m] * (values[m * stride + k] - zeros[m])
// Inputs are padded to a multiple of 64, and the padding is zeros[m], so x is 0 there. A row that
// is not finite has a scale of NaN.
struct U8Rows {
  const uint8_t* values = nullptr;
  int64_t stride = 0;  // bytes
  const float* scales = nullptr;
  const int32_t* zeros = nullptr;  // 0 to 255
};

// Where they stand in one block of memory, aligned to 64 bytes: offsets in bytes, which are
// multiples of 64. The stride is an odd number of cache lines, so that rows do not share the sets
// of a cache.
struct U8RowsLayout {
  int64_t stride = 0;
  int64_t scales = 0;
  int64_t zeros = 0;
  int64_t bytes = 0;  // of all
};

constexpr int64_t kU8InputMultiple = 64;

constexpr int64_t u8_padded_inputs(int64_t inputs) {
  return (inputs + kU8InputMultiple - 1) / kU8InputMultiple * kU8InputMultiple;
}

constexpr U8RowsLayout u8_rows_layout(int64_t rows, int64_t inputs) {
  const int64_t lines = u8_padded_inputs(inputs) / kU8InputMultiple;
  const int64_t stride = (lines | 1) * kU8InputMultiple;
  const int64_t side = (rows * 4 + 63) / 64 * 64;
  return {stride, rows * stride, rows * stride + side, rows * stride + 2 * side};
}

inline U8Rows rows_in(const void* block, const U8RowsLayout& layout) {
  const auto* bytes = static_cast<const uint8_t*>(block);
  return {bytes, layout.stride, reinterpret_cast<const float*>(bytes + layout.scales),
          reinterpret_cast<const int32_t*>(bytes + layout.zeros)};
}

}  // namespace tessera
