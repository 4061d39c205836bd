#pragma once

#include <cstdint>

#include "base/caches.h"
#include "base/dtype.h"
#include "formats/dense.h"
#include "kernels/activation/activation.h"
#include "kernels/family.h"

namespace tessera::matmul {

// Product with a prepared dense weight (formats/panels.h) and its epilogue:
//   y[m,n] = f(sum_k x[m,k] w[k,n] + bias[n]) + residual[m,n]
// x: [rows, inputs]; panels: [panel_count(outputs)][panel_elements(weight_type, inputs)], f32 or
// bf16, aligned to 64 bytes; bias: [outputs] or null; residual: [rows, outputs] or null; y: [rows,
// outputs], may be residual, never x. Rows are *_stride floats apart. The unit of Exec is a panel
// of 64 outputs, so parts write disjoint columns. bf16 weights are widened exactly; activations
// stay f32; sums in f32 or wider, in one chain over all inputs at most, whose roundings are eps / 2
// each. Max error against ref: (inputs / 2 + 8) eps sum_k |x w| per element before f.
struct Args {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  int64_t inputs = 0;
  const void* panels = nullptr;
  DType weight_type = DType::kF32;
  int64_t outputs = 0;
  const float* bias = nullptr;
  Activation activation = Activation::kNone;
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  int64_t l2_bytes = kUsualL2Bytes;  // of a core
  // Not null: the sums are over these inputs alone, so many ranges (at least one), ascending and
  // disjoint, from multiples of 2 on. The bound counts the others as well.
  const Exec* input_parts = nullptr;
  int64_t input_part_count = 0;
};

#define TESSERA_KERNEL(row, isa, refuse) void row(const Args& args, Exec exec) noexcept;
#include "kernels/matmul/table.inc"
#undef TESSERA_KERNEL
const char* refuse_onednn(const Args& args) noexcept;

extern const KernelFamily<Args> kernels;

// Packs panels [exec.begin, exec.end) of a stack of dense matrices, converting f32, f16 or bf16 to
// weight_type. panels points at panel 0 of the target.
void pack(const DenseStack& weights, DType weight_type, void* panels, Exec exec);

}  // namespace tessera::matmul
