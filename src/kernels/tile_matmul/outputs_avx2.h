#pragma once

#include <immintrin.h>

#include "kernels/tile_matmul/blocks.h"
#include "kernels/vector_math_avx2.h"

// The epilogue of a register tile of blocks.h. Included by AVX2 files, each with its own copy.
namespace tessera::tile_blocks {
namespace {

constexpr int kLanes = 8;

inline __m256 same(__m256 x) { return x; }

inline __m256i tail_mask(int64_t left) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(left > kLanes ? int(kLanes) : int(left)), lanes);
}

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
void finish(const Args& args, const TileSums& tile) {
  switch (args.activation) {
    case Activation::kNone:
      return finish_tile<same>(args, tile);
    case Activation::kRelu:
      return finish_tile<vector_relu>(args, tile);
    case Activation::kGeluErf:
      return finish_tile<vector_gelu_erf>(args, tile);
    case Activation::kGeluTanh:
      return finish_tile<vector_gelu_tanh>(args, tile);
    case Activation::kSilu:
      return finish_tile<vector_silu>(args, tile);
    case Activation::kTanh:
      return finish_tile<vector_tanh>(args, tile);
  }
}

}  // namespace
}  // namespace tessera::tile_blocks
