#pragma once

#include <cstdint>

#include "formats/tile_panels.h"
#include "formats/u8_rows.h"
#include "kernels/activation/activation.h"
#include "kernels/family.h"

namespace tessera::tile_int8_matmul {

// Product of rows of bytes with a prepared tile-pruned weight of integers, and its epilogue:
//   y[m,n] = f(x.scales[m] scales[n] sum of (x[m,k] - x.zeros[m]) w[k,n] over the kept blocks
//              + bias[n]) + residual[m,n]
// x: [rows], of inputs padded as formats/u8_rows.h says; bias: [outputs] or null; residual:
// [rows, outputs] or null; y: [rows, outputs], may be residual. Rows are *_stride floats apart.
// panels: their outputs are disjoint and cover y; blocks: [kept], as in formats/tile_panels.h;
// values: [kept][shape.inputs x shape.outputs] in steps of 64 bytes, aligned to 64:
//   16 outputs: byte 4 n + i of step s is w[input 4 s + i][output n]
//    8 outputs: byte 8 n + i of step s is w[input 8 s + i][output n]
// Values are -127 to 127, and 0 outside the matrix.
// scales: [outputs]; sums: [panels][16], of each output's values, aligned to 64 bytes.
// scratch: scratch_bytes(min(rows, group_rows), inputs), aligned to 64 bytes: the rows of x are
// packed there group_rows at a time, so that what a block reads of a register tile's rows lies in
// consecutive cache lines.
// The unit of Exec is a panel, so parts write disjoint columns; each part packs x for itself.
// Sums of at most kMaxInputs inputs are exact, so results do not depend on how rows and panels are
// dealt. Max error against ref: 3 eps (|product| + |bias|) per element before f.
struct Args {
  U8Rows x;
  int64_t rows = 0;
  int64_t inputs = 0;
  BlockShape shape;
  const TilePanel* panels = nullptr;
  const int32_t* blocks = nullptr;
  const int8_t* values = nullptr;
  const float* scales = nullptr;
  const int32_t* sums = nullptr;
  const float* bias = nullptr;
  Activation activation = Activation::kNone;
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
  void* scratch = nullptr;
  int64_t group_rows = 0;  // at least 24
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/tile_int8_matmul/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

// 255 * 127 * 2^15 and its parts fit 32 bits, and a sum of so many weights 128 * 2^15 (blocked.h).
inline constexpr int64_t kMaxInputs = int64_t{1} << 15;

// An input takes two bytes, and a row's scale and zero as many as 16 inputs.
constexpr int64_t scratch_bytes(int64_t rows, int64_t inputs) {
  return rows * ((inputs + 15) / 16 + 1) * 32;
}
// Rows that are best packed at a time, as in tile_matmul.
int64_t group_rows(int64_t inputs, int64_t l2_bytes);

// Packs a stack of integer tiles: panels [exec.begin, exec.end). values points at the pattern's
// first block, sums at its first panel's.
void pack(const TileStack& stack, const TilePattern& pattern, int8_t* values, int32_t* sums,
          Exec exec);

}  // namespace tessera::tile_int8_matmul
