#pragma once

#include <cstdint>

#include "formats/tile_panels.h"
#include "kernels/family.h"

namespace tessera::tile_outer {

// The gradient of a tile-pruned weight W [outputs, inputs] of y = x W^T, of its kept blocks alone:
//   dw[n,k] = sum_m dy[m,n] x[m,k]
// dy: [rows, outputs], x: [rows, inputs], dw: [outputs, inputs], row-major, rows *_stride floats
// apart, caller-owned, dw apart from both. What no block holds of dw is neither read nor written.
// panels, blocks: as in formats/tile_panels.h, of shapes of 16 or 8 outputs and of 16 or 8 inputs.
// The unit of Exec is a panel, so parts write disjoint rows of dw. Each reads all of x, group_rows
// at a time: what of it a core's second-level cache holds.
// Sums in f32 or wider, in one chain over all rows at most. Max error against ref: (rows / 2 + 8)
// eps sum_m |dy x| per element.
struct Args {
  const float* dy = nullptr;
  int64_t dy_stride = 0;
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t rows = 0;
  int64_t inputs = 0;
  BlockShape shape;
  const TilePanel* panels = nullptr;
  const int32_t* blocks = nullptr;
  float* dw = nullptr;
  int64_t dw_stride = 0;
  int64_t group_rows = 0;  // from 1 to kMostGroupRows; decides the order of sums
};

inline constexpr int64_t kMostGroupRows = 256;
// Rows whose inputs take half a core's second-level cache.
constexpr int64_t group_rows(int64_t inputs, int64_t l2_bytes) {
  const int64_t fitting = l2_bytes / 2 / 4 / inputs / 16 * 16;
  return fitting < 32 ? 32 : fitting > kMostGroupRows ? kMostGroupRows : fitting;
}

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/tile_outer/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::tile_outer
