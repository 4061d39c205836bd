#include <immintrin.h>

#include "kernels/csr_matmul/blocked.h"
#include "kernels/csr_matmul/csr_matmul.h"
#include "kernels/transpose/square_avx512.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::csr_matmul {
namespace {

template <__m512 (*function)(__m512)>
void finish_target(const Args& args, const Target& target) {
  const __mmask16 mask = tail_mask(target.outputs);
  const __m512 bias = args.bias != nullptr ? _mm512_maskz_loadu_ps(mask, args.bias + target.output)
                                           : _mm512_setzero_ps();
  for (int64_t first = 0; first < target.rows; first += kLanes) {
    __m512 v[16];
    for (int i = 0; i < 16; ++i) v[i] = _mm512_load_ps(target.sums + i * target.stride + first);
    transpose_square(v);
    for (int64_t r = first; r < least(target.rows, first + kLanes); ++r) {
      __m512 value = function(_mm512_add_ps(v[r - first], bias));
      const int64_t m = target.row + r;
      if (args.residual != nullptr) {
        const float* residual = args.residual + m * args.residual_stride + target.output;
        value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, residual));
      }
      _mm512_mask_storeu_ps(args.y + m * args.y_stride + target.output, mask, value);
    }
  }
}

// 16 weights and the inputs that they meet; none behind the mask.
template <bool kWide>
inline __m512 weights_at(const Args& args, int64_t i, __mmask16 mask) {
  if constexpr (kWide) {
    return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(args.values) + i);
  } else {
    const __m256i bits =
        _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(args.values) + i);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
}
inline __m512 inputs_at(const Args& args, int64_t i, __mmask16 mask) {
  const __m512i columns = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, args.columns + i));
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, columns, args.x, 4);
}

struct Avx512 {
  static constexpr int kWidth = 16;
  static constexpr int kMostVectors = 4;

  // In two chains, which hide the latency of the multiply-add.
  template <int kVectors, bool kWide>
  static int64_t add(const Args& args, const Segment& segment) {
    __m512 even[kVectors], odd[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      even[v] = _mm512_load_ps(segment.sums + v * kWidth);
      odd[v] = _mm512_setzero_ps();
    }
    const auto step = [&](int64_t i, __m512(&sums)[kVectors]) {
      const __m512 weight = _mm512_set1_ps(weight_at<kWide>(args, i));
      const float* x = segment.x + args.columns[i] * args.x_stride;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sums[v] = _mm512_fmadd_ps(weight, _mm512_loadu_ps(x + v * kWidth), sums[v]);
      }
    };
    int64_t i = segment.begin;
    for (; i + 1 < segment.end && args.columns[i + 1] < segment.limit; i += 2) {
      step(i, even);
      step(i + 1, odd);
    }
    if (i < segment.end && args.columns[i] < segment.limit) step(i++, even);
    for (int v = 0; v < kVectors; ++v) {
      _mm512_store_ps(segment.sums + v * kWidth, _mm512_add_ps(even[v], odd[v]));
    }
    return i;
  }

  template <bool kWide>
  static float dot(const Args& args, int64_t begin, int64_t end) {
    __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    int64_t i = begin;
    for (; i + 2 * kWidth <= end; i += 2 * kWidth) {
      for (int c = 0; c < 2; ++c) {
        sums[c] = _mm512_fmadd_ps(weights_at<kWide>(args, i + c * kWidth, 0xffff),
                                  inputs_at(args, i + c * kWidth, 0xffff), sums[c]);
      }
    }
    for (; i < end; i += kWidth) {
      const __mmask16 mask = tail_mask(end - i);
      sums[0] =
          _mm512_fmadd_ps(weights_at<kWide>(args, i, mask), inputs_at(args, i, mask), sums[0]);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
  }

  static void finish(const Args& args, const Target& target) {
    with_activation(args.activation,
                    [&]<__m512 (*function)(__m512)>() { finish_target<function>(args, target); });
  }
};

}  // namespace

void avx512(const Args& args, Exec exec) noexcept { product<Avx512>(args, exec); }

}  // namespace tessera::csr_matmul
