#pragma once

#include <cstdint>
#include <vector>

#include "base/caches.h"
#include "base/dtype.h"
#include "formats/integer_rows.h"
#include "formats/quantized.h"
#include "kernels/activation/activation.h"
#include "kernels/family.h"

namespace tessera::group_matmul {

// Outputs of a panel, one contiguous stream of weights.
constexpr int64_t kPanelOutputs = 64;

// Prepared weights: integers w[n, k] of 4 or 8 bits with a scale for each group of inputs. A panel
// holds the blocks of inputs one after another, a block first its 64 scales and then its steps:
//   8 bits: byte [2][64][4], w + 128 of input (i, j) of 2 x 4
//   4 bits: byte [64][4],    w + 8; input j in the low half of byte j, input 4 + j in the high one
// Padded inputs are 0, padded outputs have the scale 0. So every byte but padding is of use, and is
// read in the order in which it stands.
struct Layout {
  InputBlocks blocks;
  int32_t bits = 4;
  DType scale_type = DType::kF16;  // or f32
  int64_t outputs = 0;
};

constexpr int64_t panel_count(const Layout& layout) {
  return (layout.outputs + kPanelOutputs - 1) / kPanelOutputs;
}
int64_t panel_bytes(const Layout& layout);

// Product with such a weight and its epilogue:
//   y[m,n] = f(sum_b x.scales[m,b] s[n,b] sum over k in b of x.values[m,k] w[n,k] + bias[n])
//            + residual[m,n]
// x: rows that quantize_rows_blockwise made for layout.blocks. panels: [panel_count][panel_bytes],
// aligned to 64 bytes; bias: [outputs] or null; residual: [rows, outputs] or null, may be y; y:
// [rows, outputs]; their rows are *_stride floats apart. All are caller-owned. The unit of Exec is
// a panel of 64 outputs, so parts write disjoint columns. Sums within a block are exact; max error
// against ref: (blocks / 2 + 2) eps sum_b |x.scales s sum| + eps |bias| per element before f. A
// sum's order depends on nothing but the blocks, so that kernels but ref give the same bits for any
// number of rows before f.
struct Args {
  IntegerRows x;
  int64_t rows = 0;
  Layout weights;
  const void* panels = nullptr;
  const float* bias = nullptr;
  Activation activation = Activation::kNone;
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  int64_t l2_bytes = kUsualL2Bytes;  // of a core
};

#define TESSERA_KERNEL(row, isa, refuse) void row(const Args& args, Exec exec) noexcept;
#include "kernels/group_matmul/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

// Packs panels [exec.begin, exec.end) of a stack of matrices of equal inputs, bits and groups.
// panels points at panel 0 of the target.
void pack(const std::vector<QuantizedMatrix>& stack, const Layout& layout, void* panels, Exec exec);

}  // namespace tessera::group_matmul
