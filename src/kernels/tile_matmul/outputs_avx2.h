#pragma once

#include <immintrin.h>

#include "kernels/tile_matmul/blocks.h"
#include "kernels/vector_math_avx2.h"

// The epilogue of a register tile of blocks.h. Included by AVX2 files, each with its own copy.
namespace tessera::tile_blocks {
namespace {

constexpr int kLanes = 8;

// sums: [rows][16] of the register tile that begins at `row` of args.
struct TileSums {
  int64_t row;
  int64_t rows;
  const TilePanel& panel;
  const float* sums;
};

template <__m256 (*function)(__m256), typename Args>
void finish_tile(const Args& args, const TileSums& tile) {
  for (int64_t v = 0; v * kLanes < tile.panel.outputs; ++v) {
    const __m256i mask = tail_mask(tile.panel.outputs - v * kLanes);
    const int64_t n = tile.panel.output + v * kLanes;
    const __m256 bias =
        args.bias != nullptr ? _mm256_maskload_ps(args.bias + n, mask) : _mm256_setzero_ps();
    for (int64_t r = 0; r < tile.rows; ++r) {
      const __m256 sum = _mm256_load_ps(tile.sums + r * kLane + v * kLanes);
      __m256 value = function(_mm256_add_ps(sum, bias));
      const int64_t m = tile.row + r;
      if (args.residual != nullptr) {
        value = _mm256_add_ps(
            value, _mm256_maskload_ps(args.residual + m * args.residual_stride + n, mask));
      }
      _mm256_maskstore_ps(args.y + m * args.y_stride + n, mask, value);
    }
  }
}

template <typename Args>
[[gnu::noinline]] void finish(const Args& args, const TileSums& tile) {
  with_activation(args.activation,
                  [&]<__m256 (*function)(__m256)>() { finish_tile<function>(args, tile); });
}

}  // namespace
}  // namespace tessera::tile_blocks
