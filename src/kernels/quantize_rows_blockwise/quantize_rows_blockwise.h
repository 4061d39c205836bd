#pragma once

#include <cstdint>

#include "formats/integer_rows.h"
#include "kernels/family.h"

namespace tessera::quantize_rows_blockwise {

// Rounds rows of floats to integers, a scale for each block of inputs (formats/integer_rows.h):
//   scale = max |v| / most, integer = round(v most / max |v|), v = x[m, k] multipliers[k]
// most: 32639 for 16 bits, 127 for 8; halves go to the even integer. An integer stands for its
// value within 0.51 scales: half, and three roundings of f32 of at most 2^15. A block without a
// value of at least 2^-100 is 0; one with a value that is not finite has the scale NaN. Padding is
// 0. x: [rows, inputs], x_stride floats apart; multipliers: [inputs] or null (all 1); both
// caller-owned. The unit of Exec is a row. All kernels give the same bits.
struct Args {
  const float* x = nullptr;
  int64_t x_stride = 0;
  const float* multipliers = nullptr;
  InputBlocks blocks;
  IntegerRows rows;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/quantize_rows_blockwise/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

// The least largest magnitude that is not taken for 0: its inverse, times 32639, is finite.
constexpr float kLeast = 0x1p-100f;

}  // namespace tessera::quantize_rows_blockwise
