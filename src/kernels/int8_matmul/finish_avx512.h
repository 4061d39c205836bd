#pragma once

#include <immintrin.h>

#include "kernels/int8_matmul/product.h"
#include "kernels/matmul/finish_avx512.h"

// The epilogue of a tile of integer sums, for the rows of AVX-512 and of what is built on it.
// Included by files compiled for different instruction sets, so everything has internal linkage.
namespace tessera::int8_matmul {
namespace {

using matmul::kLanes;

constexpr int kVectors = kPanelOutputs / kLanes;

struct Epilogue {
  // tile: int32 [target.rows][64], aligned to 64 bytes; floats afterwards.
  static void finish(const matmul::Args& args, float* tile, const matmul::Target& target) {
    const auto& product = static_cast<const Product&>(args);
    const float* scales = product.scales + target.output;
    const int32_t* sums = product.sums + target.output;
    for (int v = 0; v < kVectors; ++v) {
      const __m512 scale = _mm512_loadu_ps(scales + v * kLanes);
      const __m512i sum = _mm512_loadu_si512(sums + v * kLanes);
      for (int64_t r = 0; r < target.rows; ++r) {
        float* at = tile + r * kPanelOutputs + v * kLanes;
        const __m512i zero = _mm512_set1_epi32(product.row_zeros[target.row + r]);
        const __m512 row_scale = _mm512_set1_ps(product.row_scales[target.row + r]);
        const __m512i whole =
            _mm512_sub_epi32(_mm512_load_si512(at), _mm512_mullo_epi32(zero, sum));
        _mm512_store_ps(at,
                        _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(whole), row_scale), scale));
      }
    }
    matmul::Epilogue::finish(args, tile, target);
  }
};

}  // namespace
}  // namespace tessera::int8_matmul
