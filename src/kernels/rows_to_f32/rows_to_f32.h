#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/family.h"

namespace tessera::rows_to_f32 {

// Numbers of fewer bits, as pages of keys and values hold them, to floats.
//   kBF16  y[r,c] = x[r,c]
//   kI8    y[r,c] = x[r,c] * scale       scale: row_scale[r] or col_scale[c], the one not null
// x: [rows, cols], rows x_stride numbers apart; y: [rows, cols], rows y_stride floats apart;
// caller-owned, apart from each other. The unit of Exec is a row. Every row of the family gives the
// same bits: the number itself, or the product rounded once.
struct Args {
  DType dtype = DType::kBF16;
  const void* x = nullptr;
  int64_t x_stride = 0;
  int64_t cols = 0;
  const float* row_scale = nullptr;
  const float* col_scale = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/rows_to_f32/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::rows_to_f32
