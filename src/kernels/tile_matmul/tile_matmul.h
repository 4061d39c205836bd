#pragma once

#include <cstdint>
#include <vector>

#include "base/dtype.h"
#include "formats/tiles.h"
#include "kernels/activation/activation.h"
#include "kernels/family.h"

namespace tessera::tile_matmul {

// The blocks that the kernels multiply: panels of 16 or 8 outputs, each a list of blocks of 16 or 8
// inputs, or panels of 16 outputs that are lists of single inputs. What a checkpoint's tiles are,
// follows from what they are made of: a tile of 32 x 32 is two panels' two blocks, one of 16 x 1 a
// block.
struct BlockShape {
  int32_t outputs = 16;
  int32_t inputs = 16;
};

// Outputs [output, output + outputs) of the product: the sum of blocks [begin, end).
struct Panel {
  int64_t output = 0;
  int32_t outputs = 0;  // at most shape.outputs
  int32_t begin = 0;
  int32_t end = 0;
};

// Product with a prepared tile-pruned weight and its epilogue (E.T., tensor-tile pruning):
//   y[m,n] = f(sum of x[m,k] w[k,n] over the kept blocks + bias[n]) + residual[m,n]
// x: [rows, inputs]; bias: [outputs] or null; residual: [rows, outputs] or null; y: [rows,
// outputs], may be residual, never x. Rows are *_stride floats apart.
// panels: their outputs are disjoint and cover y; blocks: [kept], the block of inputs that each
// stands for, ascending within a panel; values: [kept][shape.inputs x shape.outputs / 16][16] in
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
  const Panel* panels = nullptr;
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
// Rows that are best packed at a time: their inputs take half a second-level cache of 2 MiB,
// because every panel reads them again.
int64_t group_rows(int64_t inputs);

using TileStack = std::vector<TileMatrix>;

// The blocks of a stack of tile-pruned matrices, whose outputs are laid one after another: each
// that overlaps a kept tile.
struct Pattern {
  BlockShape shape;
  std::vector<Panel> panels;
  std::vector<int32_t> blocks;

  int64_t block_bytes(DType type) const {
    return int64_t{shape.inputs} * shape.outputs * static_cast<int64_t>(size_bytes(type));
  }
};

// The largest block that no tile of the stack has to be padded for. Where tiles are no multiple of
// 8 inputs wide, single inputs, and where they are no multiple of 8 outputs high, the smallest.
BlockShape block_shape(const TileStack& stack);
// At most 2^31 - 1 blocks; the matrices are valid and have equal inputs.
Pattern find_blocks(const TileStack& stack, BlockShape shape);

// Packs panels [exec.begin, exec.end), converting f32, f16 or bf16 to weight_type. values points at
// the pattern's first block.
void pack(const TileStack& stack, const Pattern& pattern, DType weight_type, void* values,
          Exec exec);

}  // namespace tessera::tile_matmul
