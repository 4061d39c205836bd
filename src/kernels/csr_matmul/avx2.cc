#include <immintrin.h>

#include "kernels/csr_matmul/blocked.h"
#include "kernels/csr_matmul/csr_matmul.h"
#include "kernels/vector_math_avx2.h"

namespace tessera::csr_matmul {
namespace {

// The transpose of 8 x 8 floats.
inline void transpose(__m256 (&v)[8]) {
  __m256 t[8];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(v[2 * i], v[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i], v[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    v[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    v[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
    v[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    v[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
  }
  // v[4 q + j] now has in its half p the rows 4 q .. 4 q + 3 of column 4 p + j.
  for (int j = 0; j < 4; ++j) {
    t[j] = _mm256_permute2f128_ps(v[j], v[4 + j], 0x20);
    t[4 + j] = _mm256_permute2f128_ps(v[j], v[4 + j], 0x31);
  }
  for (int i = 0; i < 8; ++i) v[i] = t[i];
}

template <__m256 (*function)(__m256)>
void finish_half(const Args& args, const Target& target, int64_t half) {
  const __m256i mask = tail_mask(target.outputs - half);
  const int64_t n = target.output + half;
  const __m256 bias =
      args.bias != nullptr ? _mm256_maskload_ps(args.bias + n, mask) : _mm256_setzero_ps();
  for (int64_t first = 0; first < target.rows; first += 8) {
    __m256 v[8];
    for (int i = 0; i < 8; ++i) {
      v[i] = _mm256_load_ps(target.sums + (half + i) * target.stride + first);
    }
    transpose(v);
    for (int64_t r = first; r < least(target.rows, first + 8); ++r) {
      __m256 value = function(_mm256_add_ps(v[r - first], bias));
      const int64_t m = target.row + r;
      if (args.residual != nullptr) {
        const float* residual = args.residual + m * args.residual_stride + n;
        value = _mm256_add_ps(value, _mm256_maskload_ps(residual, mask));
      }
      _mm256_maskstore_ps(args.y + m * args.y_stride + n, mask, value);
    }
  }
}

template <__m256 (*function)(__m256)>
void finish_target(const Args& args, const Target& target) {
  for (int64_t half = 0; half < target.outputs; half += 8) {
    finish_half<function>(args, target, half);
  }
}

struct Avx2 {
  static constexpr int kWidth = 8;
  static constexpr int kMostVectors = 4;

  // In two chains, which hide the latency of the multiply-add.
  template <int kVectors, bool kWide>
  static int64_t add(const Args& args, const Segment& segment) {
    __m256 even[kVectors], odd[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      even[v] = _mm256_load_ps(segment.sums + v * kWidth);
      odd[v] = _mm256_setzero_ps();
    }
    const auto step = [&](int64_t i, __m256(&sums)[kVectors]) {
      const __m256 weight = _mm256_set1_ps(weight_at<kWide>(args, i));
      const float* x = segment.x + args.columns[i] * args.x_stride;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sums[v] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(x + v * kWidth), sums[v]);
      }
    };
    int64_t i = segment.begin;
    for (; i + 1 < segment.end && args.columns[i + 1] < segment.limit; i += 2) {
      step(i, even);
      step(i + 1, odd);
    }
    if (i < segment.end && args.columns[i] < segment.limit) step(i++, even);
    for (int v = 0; v < kVectors; ++v) {
      _mm256_store_ps(segment.sums + v * kWidth, _mm256_add_ps(even[v], odd[v]));
    }
    return i;
  }

  template <bool kWide>
  static float dot(const Args& args, int64_t begin, int64_t end) {
    __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t i = begin;
    for (; i + 2 * kWidth <= end; i += 2 * kWidth) {
      for (int c = 0; c < 2; ++c) {
        const int64_t at = i + c * kWidth;
        const __m256i columns = _mm256_cvtepu16_epi32(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(args.columns + at)));
        sums[c] = _mm256_fmadd_ps(weights_at<kWide>(args, at),
                                  _mm256_i32gather_ps(args.x, columns, 4), sums[c]);
      }
    }
    float rest = 0;
    for (; i < end; ++i) rest += weight_at<kWide>(args, i) * args.x[args.columns[i]];
    alignas(32) float lanes[kWidth];
    _mm256_store_ps(lanes, _mm256_add_ps(sums[0], sums[1]));
    for (int lane = 0; lane < kWidth; ++lane) rest += lanes[lane];
    return rest;
  }

  template <bool kWide>
  static __m256 weights_at(const Args& args, int64_t i) {
    if constexpr (kWide) {
      return _mm256_loadu_ps(static_cast<const float*>(args.values) + i);
    } else {
      const auto* bits = static_cast<const uint16_t*>(args.values) + i;
      const __m256i wide =
          _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bits)));
      return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    }
  }

  static void finish(const Args& args, const Target& target) {
    with_activation(args.activation,
                    [&]<__m256 (*function)(__m256)>() { finish_target<function>(args, target); });
  }
};

}  // namespace

void avx2(const Args& args, Exec exec) noexcept { product<Avx2>(args, exec); }

}  // namespace tessera::csr_matmul
