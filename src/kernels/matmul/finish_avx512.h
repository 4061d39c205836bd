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

inline __m512 same(__m512 x) { return x; }

template <__m512 (*function)(__m512)>
void finish_tile(const Args& args, const float* tile, const Target& target) {
  for (int64_t v = 0; v * kLanes < target.outputs; ++v) {
    const int64_t left = target.outputs - v * kLanes;
    const __mmask16 mask = left >= kLanes ? __mmask16(0xffff) : __mmask16((1u << left) - 1);
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
