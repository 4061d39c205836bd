#pragma once

#include <cstdint>
#include <vector>

#include "base/dtype.h"
#include "formats/csr.h"
#include "kernels/activation/activation.h"
#include "kernels/family.h"

namespace tessera::csr_matmul {

// Outputs of a part of the product.
constexpr int64_t kGroupOutputs = 16;
// The transposed rows of a product lie in vectors of 16.
constexpr int64_t kLanes = 16;
// Inputs that the prepared columns of 16 bits can name.
constexpr int64_t kMaxInputs = 65536;

// Product with a weight of single kept elements, compressed by outputs, and its epilogue:
//   y[m,n] = f(sum over i in [offsets[n], offsets[n+1]) of x[m,columns[i]] values[i] + bias[n])
//            + residual[m,n]
// x: of one row, [inputs]; of more rows transposed, [inputs][x_stride] with x_stride at least the
// rows rounded up to 16, aligned to 64 bytes; what lies behind the rows is read, and ignored.
// offsets: [outputs + 1]; columns: [kept] ascending within an output; values: [kept], f32 or bf16.
// bias: [outputs] or null; residual: [rows, outputs] or null; y: [rows, outputs], may be residual,
// never x; their rows are *_stride floats apart.
// The unit of Exec is a group of 16 outputs, so parts write disjoint columns. bf16 weights are
// widened exactly; activations stay f32; sums in f32 or wider. Max error against ref: (k / 2 + 8)
// eps sum_k |x w| per element before f, k the kept elements of the output. The order of a sum is
// the same for all numbers of rows from 2 on.
struct Args {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  int64_t inputs = 0;
  const int32_t* offsets = nullptr;
  const uint16_t* columns = nullptr;
  const void* values = nullptr;
  DType weight_type = DType::kF32;
  int64_t outputs = 0;
  const float* bias = nullptr;
  Activation activation = Activation::kNone;
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/csr_matmul/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

constexpr int64_t group_count(int64_t outputs) {
  return (outputs + kGroupOutputs - 1) / kGroupOutputs;
}

// A stack of matrices whose outputs are laid one after another, by outputs.
struct Packed {
  std::vector<int32_t> offsets;
  std::vector<uint16_t> columns;
  std::vector<char> values;  // f32 or bf16
};

// The matrices are valid, have equal inputs, at most kMaxInputs, and together at most 2^31 - 1 kept
// elements; f32, f16 and bf16 are converted to weight_type.
Packed pack(const std::vector<CsrMatrix>& stack, DType weight_type);

}  // namespace tessera::csr_matmul
