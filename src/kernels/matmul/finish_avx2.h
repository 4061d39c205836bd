#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/matmul/blocked.h"
#include "kernels/matmul/matmul.h"
#include "kernels/vector_math_avx2.h"

// The epilogue of a tile of sums, for the rows of AVX2. Included by files of several families, so
// everything has internal linkage.
namespace tessera::matmul {
namespace {

constexpr int kLanes = 8;

inline __m256 same(__m256 x) { return x; }

inline __m256i tail_mask(int64_t left) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(left > kLanes ? int(kLanes) : int(left)), lanes);
}

template <__m256 (*function)(__m256)>
void finish_tile(const Args& args, const float* tile, const Target& target) {
  for (int64_t v = 0; v * kLanes < target.outputs; ++v) {
    const __m256i mask = tail_mask(target.outputs - v * kLanes);
    const int64_t n = target.output + v * kLanes;
    const __m256 bias =
        args.bias != nullptr ? _mm256_maskload_ps(args.bias + n, mask) : _mm256_setzero_ps();
    for (int64_t r = 0; r < target.rows; ++r) {
      const __m256 sum = _mm256_load_ps(tile + r * kPanelOutputs + v * kLanes);
      __m256 value = function(_mm256_add_ps(sum, bias));
      const int64_t m = target.row + r;
      if (args.residual != nullptr) {
        value = _mm256_add_ps(
            value, _mm256_maskload_ps(args.residual + m * args.residual_stride + n, mask));
      }
      _mm256_maskstore_ps(args.y + m * args.y_stride + n, mask, value);
    }
  }
}

struct Epilogue {
  // tile: [target.rows][64], aligned to 32 bytes.
  static void finish(const Args& args, const float* tile, const Target& target) {
    switch (args.activation) {
      case Activation::kNone:
        return finish_tile<same>(args, tile, target);
      case Activation::kRelu:
        return finish_tile<vector_relu>(args, tile, target);
      case Activation::kGeluErf:
        return finish_tile<vector_gelu_erf>(args, tile, target);
      case Activation::kGeluTanh:
        return finish_tile<vector_gelu_tanh>(args, tile, target);
      case Activation::kSilu:
        return finish_tile<vector_silu>(args, tile, target);
      case Activation::kTanh:
        return finish_tile<vector_tanh>(args, tile, target);
    }
  }
};

}  // namespace
}  // namespace tessera::matmul
