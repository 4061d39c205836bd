#pragma once

#include <cstdint>

#include "formats/tile_panels.h"
#include "tune/torch/pruned_products.h"

// Products with the lines of tiles of 16 x 1 weights in which no panel of outputs can be kept in
// registers: the sums of a line's 16 products with rows that stand beside each other.
namespace tessera::training {

// For each row, with lines[i] the weights of block i of the pattern, whose panel begins at p:
//   to[blocks[i]] = bias[blocks[i]] + sum of lines[i][j] from[p + j]
// lines: [blocks][16], 0 beyond the edge; bias: of the width of `to`, or null.
void scatter_lines(Rows from, const TilePattern& pattern, const float* lines, const float* bias,
                   Rows to);

// The gradient of the lines: at panel p + j and block i
//   dw[(p + j) lane_stride + blocks[i] factor_stride] = sum over rows of lanes[p + j]
//   factors[blocks[i]]
struct LineGradient {
  float* dw = nullptr;
  int64_t lane_stride = 0;
  int64_t factor_stride = 0;
};
void gather_lines(Rows lanes, Rows factors, const TilePattern& pattern, LineGradient target);

// Where the panels of part `part` begin, so that all have like numbers of blocks.
int64_t cut(const TilePattern& pattern, int64_t part, int64_t parts);

}  // namespace tessera::training
