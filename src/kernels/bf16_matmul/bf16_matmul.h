#pragma once

#include <cstdint>

#include "base/caches.h"
#include "kernels/activation/activation.h"
#include "kernels/family.h"

namespace tessera::bf16_matmul {

// As kernels/matmul, with rows of bf16:
//   y[m,n] = f(sum_k x[m,k] w[k,n] + bias[n]) + residual[m,n]
// x: bf16 [rows, inputs], each row padded with zeros to the next multiple of 32 inputs; panels:
// [panel_count(outputs)][panel_elements(kBF16, inputs)] (formats/panels.h), aligned to 64 bytes;
// bias: [outputs] or null; residual: [rows, outputs] or null; y: [rows, outputs], may be residual.
// Rows are *_stride elements apart, x_stride even. The unit of Exec is a panel of 64 outputs, so
// parts write disjoint columns, and an element's bits depend on its row and column alone.
// A product of two bf16 is exact in f32. The instructions add them in some order, rounding each sum
// to nearest, and count as 0 what is below 2^-126 in magnitude: values, products and sums. Max
// error against ref: (inputs / 2 + 8) eps sum_k |x w| + inputs max(1, |x|, |w|) 2^-126 per element
// before f.
struct Args {
  const uint16_t* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  int64_t inputs = 0;
  const void* panels = nullptr;
  int64_t outputs = 0;
  const float* bias = nullptr;
  Activation activation = Activation::kNone;
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  int64_t l2_bytes = kUsualL2Bytes;  // of a core
  // Not null: the sums are over these inputs alone, in pairs: so many ranges (at least one),
  // ascending and disjoint, from multiples of 16 pairs on.
  const Exec* pair_parts = nullptr;
  int64_t pair_part_count = 0;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/bf16_matmul/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

// Why this CPU had better multiply f32 rows with the widened weights; null where this family is
// faster.
const char* refuse_cpu();

}  // namespace tessera::bf16_matmul
