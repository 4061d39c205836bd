#pragma once

#include <cstdint>

#include "kernels/family.h"

namespace tessera::quantize_rows_u8 {

// Rounds rows of floats to bytes (formats/u8_rows.h). With v[k] = x[m,k] * multipliers[k],
// a = min(0, min_k v) and b = max(0, max_k v):
//   scale = max(b / 255 - a / 255, 2^-126), zero = round(-a * (1 / scale))
//   value[k] = min(round(v[k] * (1 / scale)) + zero, 255)
// round is to nearest even, and each operation is rounded to f32 by itself, so all rows of the
// family give the same bits. |v[k] - scale (value[k] - zero)| <= (1/2 + 2^-13) scale.
// A row with a value that is not finite: scale NaN, zero and values 0.
// x: [rows, inputs], rows x_stride floats apart; multipliers: [inputs] or null (all 1). values, of
// which each row is written up to the next multiple of 64 with its zero, scales and zeros: of all
// rows, as u8_rows_layout places them. The unit of Exec is a row.
struct Args {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t inputs = 0;
  const float* multipliers = nullptr;
  uint8_t* values = nullptr;
  int64_t stride = 0;  // bytes
  float* scales = nullptr;
  int32_t* zeros = nullptr;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/quantize_rows_u8/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::quantize_rows_u8
