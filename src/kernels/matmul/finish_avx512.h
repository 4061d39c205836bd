#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/matmul/blocked.h"
#include "kernels/matmul/matmul.h"
#include "kernels/vector_math_avx512.h"

// The epilogue of a tile of sums, for the rows of AVX-512 and of what is built on it. Included by
// files compiled for different instruction sets, so everything has internal linkage.
namespace tessera::matmul {
namespace {

constexpr int kLanes = 16;

template <__m512 (*function)(__m512)>
void finish_tile(const Args& args, const float* tile, const Target& target) {
  for (int64_t v = 0; v * kLanes < target.outputs; ++v) {
    const __mmask16 mask = tail_mask(target.outputs - v * kLanes);
    const int64_t n = target.output + v * kLanes;
    const __m512 bias =
        args.bias != nullptr ? _mm512_maskz_loadu_ps(mask, args.bias + n) : _mm512_setzero_ps();
    for (int64_t r = 0; r < target.rows; ++r) {
      const __m512 sum = _mm512_load_ps(tile + r * kPanelOutputs + v * kLanes);
      __m512 value = function(_mm512_add_ps(sum, bias));
      const int64_t m = target.row + r;
      if (args.residual != nullptr) {
        value = _mm512_add_ps(
            value, _mm512_maskz_loadu_ps(mask, args.residual + m * args.residual_stride + n));
      }
      _mm512_mask_storeu_ps(args.y + m * args.y_stride + n, mask, value);
    }
  }
}

struct Epilogue {
  // tile: [target.rows][64], aligned to 64 bytes.
  static void finish(const Args& args, const float* tile, const Target& target) {
    with_activation(args.activation, [&]<__m512 (*function)(__m512)>() {
      finish_tile<function>(args, tile, target);
    });
  }
};

}  // namespace
}  // namespace tessera::matmul
