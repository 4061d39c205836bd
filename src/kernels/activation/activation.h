#pragma once

#include <cstdint>

#include "kernels/family.h"

namespace tessera {

// kGeluErf: x Phi(x) (Hendrycks & Gimpel 2016).  kGeluTanh: its tanh form (GPT-2's gelu_new).
// kSilu: x sigmoid(x).
enum class Activation : int32_t { kNone, kRelu, kGeluErf, kGeluTanh, kSilu, kTanh };

}  // namespace tessera

namespace tessera::activation {

// Element-wise activation, optionally gating a second input (Shazeer 2020):
//   y[r,c] = f(x[r,c])   or   y[r,c] = f(x[r,c]) * up[r,c]
// x, up, y: [rows, cols], rows their strides apart, caller-owned; y may be x or up; up may be null.
// The unit of Exec is a row. Max error against ref: 8 eps max(|y|, |x|) per element (times |up|).
struct Args {
  Activation function = Activation::kNone;
  const float* x = nullptr;
  int64_t x_stride = 0;
  const float* up = nullptr;
  int64_t up_stride = 0;
  int64_t cols = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/activation/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::activation
