#include <algorithm>
#include <cstring>

#include "kernels/tile_matmul/tile_matmul.h"

namespace tessera::tile_matmul {
namespace {

// Lays a block in steps, as the header says.
void store_block(const BlockValues<float>& values, BlockShape shape, DType type, void* target) {
  alignas(64) float steps[16][16];
  const int count = shape.inputs * shape.outputs / 16;
  for (int s = 0; s < count; ++s) {
    for (int l = 0; l < 16; ++l) {
      steps[s][l] = shape.outputs == 16 ? values.at[s][l] : values.at[2 * s + l % 2][l / 2];
    }
  }
  auto* bits = static_cast<uint16_t*>(target);
  if (type == DType::kF32) {
    std::memcpy(target, steps, static_cast<size_t>(count) * sizeof(steps[0]));
    return;
  }
  if (count == 1) {
    for (int l = 0; l < 16; ++l) bits[l] = f32_to_bf16(steps[0][l]);
    return;
  }
  for (int s = 0; s < count; s += 2, bits += 32) {
    for (int l = 0; l < 16; ++l) {
      bits[2 * l] = f32_to_bf16(steps[s][l]);
      bits[2 * l + 1] = f32_to_bf16(steps[s + 1][l]);
    }
  }
}

}  // namespace

int64_t group_rows(int64_t inputs, int64_t l2_bytes) {
  constexpr int64_t kTile = 24, kMost = 384;
  const int64_t fitting = l2_bytes / 2 / static_cast<int64_t>(scratch_floats(1, inputs) * 4);
  return std::clamp(fitting / kTile * kTile, kTile, kMost);
}

void pack(const TileStack& stack, const TilePattern& pattern, DType weight_type, void* values,
          Exec exec) {
  const int64_t bytes = block_bytes(pattern, weight_type);
  for (int64_t p = exec.begin; p < exec.end; ++p) {
    const TilePanel& panel = pattern.panels[static_cast<size_t>(p)];
    for (int32_t b = panel.begin; b < panel.end; ++b) {
      store_block(read_block<float>(stack, pattern, panel, b), pattern.shape, weight_type,
                  static_cast<char*>(values) + b * bytes);
    }
  }
}

}  // namespace tessera::tile_matmul
