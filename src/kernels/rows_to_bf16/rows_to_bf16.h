#pragma once

#include <cstdint>

#include "kernels/family.h"

namespace tessera::rows_to_bf16 {

// Rounds rows of floats to bf16, to nearest even:
//   y[m,k] = bf16(x[m,k]) for k < inputs, 0 up to the next multiple of 32
// x: [rows, inputs]; y: [rows, inputs up to the next multiple of 32], rows *_stride elements apart.
// The unit of Exec is a row. As in the instructions that multiply bf16, a value below 2^-126 in
// magnitude counts as 0; NaN stays NaN. So all rows of the family give the same bits, within
// 2^-8 |x| + 2^-126 of x.
struct Args {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t inputs = 0;
  uint16_t* y = nullptr;
  int64_t y_stride = 0;
};

constexpr int64_t kMultiple = 32;

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/rows_to_bf16/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::rows_to_bf16
