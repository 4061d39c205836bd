#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "formats/tile_panels.h"
#include "kernels/activation/activation.h"
#include "kernels/family.h"

namespace tessera::tile_matmul {

// Product with a prepared tile-pruned weight and its epilogue (E.T., tensor-tile pruning):
//   y[m,n] = f(sum of x[m,k] w[k,n] over the kept blocks + bias[n]) + residual[m,n]
// x: [rows, inputs]; bias: [outputs] or null; residual: [rows, outputs] or null; y: [rows,
// outputs], may be residual, never x. Rows are *_stride floats apart.
// panels: their outputs are disjoint and cover y; blocks: [kept], as in formats/tile_panels.h;
// values: [kept][shape.inputs x shape.outputs / 16][16] in
// steps of 16 lanes, aligned to 64 bytes:
//   16 outputs: lane n of step s is w[input s][output n]
//    8 outputs: lane l of step s is w[input 2 s + l % 2][output l / 2]
// bf16: steps 2 t and 2 t + 1 interleaved lane by lane, the even one first; a single input's step
// alone, in the order of its lanes.
// What lies outside the matrix is zero, and finite x meets it as zero.
// scratch: scratch_floats(min(rows, group_rows), inputs) floats, aligned to 64 bytes: the rows of x
// are packed there group_rows at a time, so that a register tile's rows lie in consecutive cache
// lines (rows of x that are a multiple of 4 KB apart would share one set of the L1 cache), or, for
// single inputs, transposed.
// The unit of Exec is a panel, so parts write disjoint columns; each part packs x for itself.
// bf16 weights are widened exactly; activations stay f32; sums in f32 or wider. Max error against
// ref: (k / 2 + 8) eps sum_k |x w| per element before f, k the inputs of the panel's blocks. The
// order of a sum is the same for all numbers of rows from 8 on.
struct Args {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  int64_t inputs = 0;
  BlockShape shape;
  const TilePanel* panels = nullptr;
  const int32_t* blocks = nullptr;
  const void* values = nullptr;
  DType weight_type = DType::kF32;
  const float* bias = nullptr;
  Activation activation = Activation::kNone;
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  float* scratch = nullptr;
  int64_t group_rows = 0;  // at least 24
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/tile_matmul/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

constexpr int64_t scratch_floats(int64_t rows, int64_t inputs) {
  return rows * ((inputs + 15) / 16 * 16);
}
// Rows that are best packed at a time: their inputs take half a core's second-level cache, because
// every panel reads them again. The order of sums does not depend on it.
int64_t group_rows(int64_t inputs, int64_t l2_bytes);

inline int64_t block_bytes(const TilePattern& pattern, DType weight_type) {
  return pattern.block_values() * static_cast<int64_t>(size_bytes(weight_type));
}

// Packs a stack: panels [exec.begin, exec.end), converting f32, f16 or bf16 to weight_type. values
// points at the pattern's first block.
void pack(const TileStack& stack, const TilePattern& pattern, DType weight_type, void* values,
          Exec exec);

}  // namespace tessera::tile_matmul
