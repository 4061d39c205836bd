#pragma once

#include <cstdint>

#include "kernels/family.h"

namespace tessera::norm {

enum class Kind : int32_t { kLayer, kRms };

// Normalisation over the last axis.
//   kLayer: y[r,c] = (x[r,c] - mean_c) / sqrt(var_c + eps) * weight[c] + bias[c] (Ba et al. 2016)
//   kRms:   y[r,c] = x[r,c] / sqrt(mean_c(x^2) + eps) * weight[c] (Zhang & Sennrich 2019)
// x, y: [rows, cols], rows x_stride and y_stride apart, caller-owned; y may be x.  weight, bias:
// [cols]; bias may be null.  weight_offset is added to every weight (1 for norms that store w - 1).
// eps >= 0. The unit of Exec is a row; rows are independent. Sums in f32 with at least 8 partial
// sums, or wider. Max error against ref: (cols / 8 + 8) eps |y| per element, plus the cancellation
// of x - mean.
struct Args {
  Kind kind = Kind::kLayer;
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t cols = 0;
  const float* weight = nullptr;
  const float* bias = nullptr;
  float weight_offset = 0;
  float eps = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/norm/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::norm
