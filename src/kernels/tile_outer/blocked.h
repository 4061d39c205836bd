#pragma once

#include <stdint.h>

#include "kernels/tile_outer/tile_outer.h"

// The loops around a tile of 16 or 8 outputs x 16 inputs, which are a block or two blocks of 8.
// Included by files compiled for different instruction sets, so everything has internal linkage.
namespace tessera::tile_outer {
namespace {

constexpr int64_t kLane = 16;

inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

// Eight inputs of a tile: where they begin and how many of them there are.
struct Half {
  int64_t input;
  int64_t count;
};

struct Tile {
  const float* dy;  // [rows][outputs of a block], packed, 0 where the panel has fewer
  const float* x;   // of the first row
  int64_t rows;
  float* dw;  // of the panel's first output
  int64_t outputs;
  Half halves[2];
  enum class Sums { kStore, kAdd } sums;
};

inline Half half(const Args& args, int64_t input) {
  const int64_t left = args.inputs - input;
  return {input, left < 0 ? 0 : lesser(left, 8)};
}

// A tile of block b and, of blocks of 8, the next one.
inline void set_halves(const Args& args, const TilePanel& panel, int32_t b, Tile& tile) {
  const int64_t first = int64_t{args.blocks[b]} * args.shape.inputs;
  tile.halves[0] = half(args, first);
  if (args.shape.inputs == kLane) {
    tile.halves[1] = half(args, first + 8);
  } else {
    const bool alone = b + 1 == panel.end;
    tile.halves[1] = alone ? Half{first, 0} : half(args, int64_t{args.blocks[b + 1]} * 8);
  }
}

// Vectors: copy<outputs>(source, target, count) of a packed row, and multiply<outputs>(args, tile).
template <typename Vectors, int kOutputs>
void product_of(const Args& args, Exec exec) {
  alignas(64) float packed[kMostGroupRows * kOutputs];
  const int32_t step = args.shape.inputs == kLane ? 1 : 2;
  // Without rows the sums are 0.
  for (int64_t row = 0; row == 0 || row < args.rows; row += args.group_rows) {
    const int64_t rows = lesser(args.rows - row, args.group_rows);
    for (int64_t p = exec.begin; p < exec.end; ++p) {
      const TilePanel& panel = args.panels[p];
      if (panel.begin == panel.end) continue;
      for (int64_t m = 0; m < rows; ++m) {
        Vectors::template copy<kOutputs>(args.dy + (row + m) * args.dy_stride + panel.output,
                                         packed + m * kOutputs, panel.outputs);
      }
      Tile tile{packed,
                args.x + row * args.x_stride,
                rows,
                args.dw + panel.output * args.dw_stride,
                panel.outputs,
                {},
                row == 0 ? Tile::Sums::kStore : Tile::Sums::kAdd};
      for (int32_t b = panel.begin; b < panel.end; b += step) {
        set_halves(args, panel, b, tile);
        Vectors::template multiply<kOutputs>(args, tile);
      }
    }
  }
}

template <typename Vectors>
void product(const Args& args, Exec exec) {
  if (args.shape.outputs == kLane) {
    product_of<Vectors, 16>(args, exec);
  } else {
    product_of<Vectors, 8>(args, exec);
  }
}

}  // namespace
}  // namespace tessera::tile_outer
