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
  // Inlined it takes registers from the sums: products of bytes took 1.5 times as long.
  [[gnu::noinline]] static void finish(const Args& args, const float* tile, const Target& target) {
    with_activation(args.activation, [&]<__m256 (*function)(__m256)>() {
      finish_tile<function>(args, tile, target);
    });
  }
};

}  // namespace
}  // namespace tessera::matmul
