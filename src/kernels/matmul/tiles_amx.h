#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/matmul/blocked.h"
#include "kernels/matmul/matmul.h"

// The loops around the tiles of AMX, for products whose rows and panels are lanes of 32 bits: pairs
// of bf16 or fours of bytes stand where kernels/matmul has floats. Included by files of several
// families, so everything has internal linkage.
//
// A tile is 16 rows of 64 bytes: rows x 16 lanes of x, 16 lanes x 16 outputs of a panel, or rows x
// 16 sums. Tiles 0 to 3 hold sums, 4 and 5 rows of x, 6 and 7 weights. They are state of the
// thread, shaped at the start of a product and released at its end.
namespace tessera::matmul {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileOutputs = 16;
constexpr int64_t kPanelRowBytes = kPanelOutputs * 4;
constexpr int64_t kStepLanes = 16;
constexpr int64_t kStepBytes = kStepLanes * kPanelRowBytes;  // of a panel
static_assert(kChunk % kStepLanes == 0);
// A block of rows is two tiles high.
constexpr int64_t kTiledRows = 2 * kTileRows;
constexpr int64_t kTiledGroupRows = 256;

struct alignas(64) TileShapes {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

// Shapes the tiles for a block of so many rows; the sums of one that is a tile high are all in it.
inline void shape_tiles(int64_t rows) {
  const auto upper = static_cast<uint8_t>(rows < kTileRows ? rows : kTileRows);
  const auto lower = rows > kTileRows ? static_cast<uint8_t>(rows - kTileRows) : upper;
  TileShapes shapes = {};
  shapes.palette = 1;
  for (int i = 0; i < 8; ++i) {
    shapes.row_bytes[i] = kLineBytes;
    shapes.rows[i] = kTileRows;
  }
  shapes.rows[0] = shapes.rows[1] = shapes.rows[4] = upper;
  shapes.rows[2] = shapes.rows[3] = shapes.rows[5] = lower;
  // The intrinsic tells the compiler of the first eight bytes only.
  asm volatile("" ::"r"(&shapes) : "memory");
  _tile_loadconfig(&shapes);
}

struct TiledBlock {
  const char* x;
  int64_t x_bytes;  // from row to row
  const char* weights;
  int64_t steps;
  float* sums;  // [rows][64]
  bool accumulate;
  const char* ahead;    // what is fetched into L2 meanwhile
  int64_t ahead_lines;  // a step
};

inline void fetch_ahead(const TiledBlock& block, int64_t step) {
  const char* line = block.ahead + step * block.ahead_lines * kLineBytes;
  for (int64_t i = 0; i < block.ahead_lines; ++i) _mm_prefetch(line + i * kLineBytes, _MM_HINT_T1);
}

// The sums of tiles 0 and 1 lie side by side, those of 2 and 3 at `other`.
inline void start_sums(const TiledBlock& block, const float* other) {
  if (block.accumulate) {
    _tile_loadd(0, block.sums, kPanelRowBytes);
    _tile_loadd(1, block.sums + kTileOutputs, kPanelRowBytes);
    _tile_loadd(2, other, kPanelRowBytes);
    _tile_loadd(3, other + kTileOutputs, kPanelRowBytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
}
inline void store_sums(const TiledBlock& block, float* other) {
  _tile_stored(0, block.sums, kPanelRowBytes);
  _tile_stored(1, block.sums + kTileOutputs, kPanelRowBytes);
  _tile_stored(2, other, kPanelRowBytes);
  _tile_stored(3, other + kTileOutputs, kPanelRowBytes);
}

// Up to 16 rows x 64 outputs. Tiles 4 and 5 hold the same rows.
template <typename Tiles>
inline void multiply_flat(const TiledBlock& block) {
  float* right = block.sums + 2 * kTileOutputs;
  start_sums(block, right);
  for (int64_t step = 0; step < block.steps; ++step) {
    const char* x = block.x + step * kLineBytes;
    const char* w = block.weights + step * kStepBytes;
    fetch_ahead(block, step);
    _tile_loadd(4, x, block.x_bytes);
    _tile_loadd(6, w, kPanelRowBytes);
    Tiles::multiply_4_6_into_0();
    _tile_loadd(7, w + kLineBytes, kPanelRowBytes);
    Tiles::multiply_4_7_into_1();
    _tile_loadd(5, x, block.x_bytes);
    _tile_loadd(6, w + 2 * kLineBytes, kPanelRowBytes);
    Tiles::multiply_5_6_into_2();
    _tile_loadd(7, w + 3 * kLineBytes, kPanelRowBytes);
    Tiles::multiply_5_7_into_3();
  }
  store_sums(block, right);
}

// 17 to 32 rows x 32 outputs.
template <typename Tiles>
inline void multiply_high(const TiledBlock& block) {
  float* lower = block.sums + kTileRows * kPanelOutputs;
  start_sums(block, lower);
  for (int64_t step = 0; step < block.steps; ++step) {
    const char* x = block.x + step * kLineBytes;
    const char* w = block.weights + step * kStepBytes;
    fetch_ahead(block, step);
    _tile_loadd(4, x, block.x_bytes);
    _tile_loadd(6, w, kPanelRowBytes);
    Tiles::multiply_4_6_into_0();
    _tile_loadd(7, w + kLineBytes, kPanelRowBytes);
    Tiles::multiply_4_7_into_1();
    _tile_loadd(5, x + kTileRows * block.x_bytes, block.x_bytes);
    Tiles::multiply_5_6_into_2();
    Tiles::multiply_5_7_into_3();
  }
  store_sums(block, lower);
}

template <typename Tiles>
inline void multiply_tiles(int64_t rows, TiledBlock block) {
  if (rows <= kTileRows) return multiply_flat<Tiles>(block);
  multiply_high<Tiles>(block);
  block.weights += 2 * kLineBytes;
  block.sums += 2 * kTileOutputs;
  block.ahead += block.steps * block.ahead_lines * kLineBytes;
  multiply_high<Tiles>(block);
}

inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename Tiles>
void tiled_group_times_panel(const Args& args, int64_t row, int64_t rows, int64_t panel) {
  alignas(64) float sums[kTiledGroupRows * kPanelOutputs];
  const int64_t steps = (args.inputs + kStepLanes - 1) / kStepLanes;
  const char* weights = static_cast<const char*>(args.panels) + panel * steps * kStepBytes;
  const int64_t output = panel * kPanelOutputs;
  const int64_t outputs = lesser(args.outputs - output, kPanelOutputs);
  // The passes over the group share the fetching of the next chunk; a flat block has one only.
  const int64_t passes = 2 * ((rows + kTiledRows - 1) / kTiledRows);
  const int64_t pass_lines = (kStepBytes / kLineBytes + passes - 1) / passes;
  for_each_chunk(args, [&](const Chunk& chunk) {
    const int64_t step = chunk.begin / kStepLanes;
    const int64_t count = (chunk.inputs + kStepLanes - 1) / kStepLanes;
    const char* part = weights + step * kStepBytes;
    const char* ahead = weights + (chunk.next + kStepLanes - 1) / kStepLanes * kStepBytes;
    for (int64_t r = 0; r < rows; r += kTiledRows) {
      const int64_t height = lesser(rows - r, kTiledRows);
      const bool odd = height < kTiledRows && rows > kTiledRows;
      const char* x = reinterpret_cast<const char*>(args.x + (row + r) * args.x_stride);
      const TiledBlock block{x + step * kLineBytes,
                             args.x_stride * 4,
                             part,
                             count,
                             sums + r * kPanelOutputs,
                             !chunk.first,
                             ahead,
                             height > kTileRows ? pass_lines : 2 * pass_lines};
      if (odd) shape_tiles(height);
      multiply_tiles<Tiles>(height, block);
      if (odd) shape_tiles(kTiledRows);
      ahead += 2 * count * pass_lines * kLineBytes;
      if (chunk.last) Tiles::finish(args, block.sums, {row + r, height, output, outputs});
    }
  });
}

// Tiles gives the four products and finish. Rows of x are padded to whole steps.
template <typename Tiles>
void tiled_product(const Args& args, Exec exec) {
  for (int64_t row = 0; row < args.rows; row += kTiledGroupRows) {
    const int64_t rows = lesser(args.rows - row, kTiledGroupRows);
    shape_tiles(lesser(rows, kTiledRows));
    for (int64_t panel = exec.begin; panel < exec.end; ++panel) {
      tiled_group_times_panel<Tiles>(args, row, rows, panel);
    }
  }
  if (args.rows > 0) _tile_release();
}

}  // namespace
}  // namespace tessera::matmul
