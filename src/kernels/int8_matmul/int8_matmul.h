#pragma once

#include <cstdint>
#include <vector>

#include "base/caches.h"
#include "formats/quantized.h"
#include "formats/u8_rows.h"
#include "kernels/activation/activation.h"
#include "kernels/family.h"

namespace tessera::int8_matmul {

// Product of rows of bytes (formats/u8_rows.h) with a prepared weight of 8 bits, with the
// epilogue of kernels/matmul:
//   y[m,n] = f(x.scales[m] scales[n] (sum_k x[m,k] w[k,n] - x.zeros[m] sums[n]) + bias[n])
//            + residual[m,n]
// panels: [panel_count(outputs)][u8_padded_inputs(inputs) / 4][64 outputs][4 inputs], zero where
// there is no input or output, aligned to 64 bytes; sums[n] = sum_k w[k,n]; bias: [outputs] or
// null; scales, sums and bias are padded to whole panels. residual: [rows, outputs] or null; y:
// [rows, outputs], may be residual. Their rows are *_stride floats apart. The unit of Exec is a
// panel of 64 outputs, so parts write disjoint columns, and an element's bits depend on its row and
// column alone. inputs is at most kMaxInputs, so that the integers fit 32 bits and are exact. With
// their value v = scale scale (sum - zero sums), max error against ref: 5/2 eps (|v| + |bias|) per
// element before f, for the conversion, two products and the addition.
struct Args {
  U8Rows x;
  int64_t rows = 0;
  int64_t inputs = 0;
  const int8_t* panels = nullptr;
  int64_t outputs = 0;
  const float* scales = nullptr;
  const int32_t* sums = nullptr;
  const float* bias = nullptr;
  Activation activation = Activation::kNone;
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  int64_t l2_bytes = kUsualL2Bytes;  // of a core
  // Not null: the sums over k are over these inputs alone, in fours, and so are those in `sums`: so
  // many ranges (at least one), ascending and disjoint, from multiples of 16 fours on.
  const Exec* four_parts = nullptr;
  int64_t four_part_count = 0;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/int8_matmul/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

// 255 * 127 * 2^16 < 2^31.
constexpr int64_t kMaxInputs = int64_t{1} << 16;

constexpr int64_t panel_bytes(int64_t inputs) { return u8_padded_inputs(inputs) * 64; }

// What a stack of matrices becomes, whose outputs are laid one after another. Each points at its
// first panel.
struct Packed {
  int8_t* panels = nullptr;
  float* scales = nullptr;
  int32_t* sums = nullptr;
};

// Packs panels [exec.begin, exec.end) of matrices of 8 bits with a scale for each output.
void pack(const std::vector<QuantizedMatrix>& weights, const Packed& packed, Exec exec);

}  // namespace tessera::int8_matmul
