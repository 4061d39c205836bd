#include <algorithm>

#include "kernels/tile_int8_matmul/tile_int8_matmul.h"

namespace tessera::tile_int8_matmul {
namespace {

// Lays a block in steps, as the header says, and adds its values up.
void store_block(const BlockValues<int8_t>& block, BlockShape shape, int8_t* target,
                 int32_t* sums) {
  const int per_step = 64 / shape.outputs;
  for (int k = 0; k < shape.inputs; ++k) {
    for (int n = 0; n < shape.outputs; ++n) {
      target[k / per_step * 64 + n * per_step + k % per_step] = block.at[k][n];
      sums[n] += block.at[k][n];
    }
  }
}

}  // namespace

int64_t group_rows(int64_t inputs, int64_t l2_bytes) {
  constexpr int64_t kTile = 24, kMost = 384;
  return std::clamp(l2_bytes / 2 / scratch_bytes(1, inputs) / kTile * kTile, kTile, kMost);
}

void pack(const TileStack& stack, const TilePattern& pattern, int8_t* values, int32_t* sums,
          Exec exec) {
  for (int64_t p = exec.begin; p < exec.end; ++p) {
    const TilePanel& panel = pattern.panels[static_cast<size_t>(p)];
    int32_t* panel_sums = sums + p * 16;
    std::fill_n(panel_sums, 16, 0);
    for (int32_t b = panel.begin; b < panel.end; ++b) {
      store_block(read_block<int8_t>(stack, pattern, panel, b), pattern.shape,
                  values + b * pattern.block_values(), panel_sums);
    }
  }
}

}  // namespace tessera::tile_int8_matmul
