#pragma once

#include <cstdint>

#include "kernels/family.h"

namespace tessera::transpose {

//   y[c,r] = x[r,c]
// x: [rows, cols], y: [cols, rows], row-major, rows *_stride floats apart, caller-owned, apart from
// each other. The unit of Exec is a row of x. Exact.
struct Args {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t cols = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/transpose/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::transpose
