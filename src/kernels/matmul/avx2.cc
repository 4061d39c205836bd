#include <immintrin.h>

#include "kernels/matmul/blocked.h"
#include "kernels/matmul/finish_avx2.h"
#include "kernels/matmul/matmul.h"

namespace tessera::matmul {
namespace {

// Sums of kRows rows x kVectors vectors, a sub-column of the tile. Sixteen registers hold 6 x 2
// sums, the weights and one broadcast; one row alone takes the panel's whole width, so that it
// streams.
template <int kRows, int kVectors>
struct Sums {
  __m256 at[kRows][kVectors];

  inline void start(const Block& block, const float* tile) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        at[r][v] = block.accumulate ? _mm256_load_ps(tile + r * kPanelOutputs + v * kLanes)
                                    : _mm256_setzero_ps();
      }
    }
  }
  inline void add(const float* x, int64_t x_stride, const __m256* weights) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m256 value = _mm256_broadcast_ss(x + r * x_stride);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) at[r][v] = _mm256_fmadd_ps(value, weights[v], at[r][v]);
    }
  }
  inline void store(float* tile) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        _mm256_store_ps(tile + r * kPanelOutputs + v * kLanes, at[r][v]);
      }
    }
  }
};

inline __m256 even_input(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}
inline __m256 odd_input(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(int(0xffff0000))));
}
inline __m256i load_pairs(const uint32_t* source) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(source));
}

template <int kRows, int kVectors, Fetch kFetch>
inline void multiply_f32(const Block& block, int64_t column) {
  Sums<kRows, kVectors> sums;
  sums.start(block, block.tile + column);
  const float* x = block.x;
  const float* w = static_cast<const float*>(block.weights) + column;
  for (int64_t k = 0; k < block.inputs; ++k, ++x, w += kPanelOutputs) {
    fetch<kFetch, 1>(w, block.ahead + k * kLineBytes);
    __m256 weights[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) weights[v] = _mm256_load_ps(w + v * kLanes);
    sums.add(x, block.x_stride, weights);
  }
  sums.store(block.tile + column);
}

template <int kRows, int kVectors, Fetch kFetch>
inline void multiply_bf16(const Block& block, int64_t column) {
  Sums<kRows, kVectors> sums;
  sums.start(block, block.tile + column);
  const float* x = block.x;
  const uint32_t* w = static_cast<const uint32_t*>(block.weights) + column;
  int64_t k = 0;
  for (; k < block.inputs; k += 2, x += 2, w += kPanelOutputs) {
    fetch<kFetch, 2>(w, block.ahead + k * kLineBytes);
    __m256 weights[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) weights[v] = even_input(load_pairs(w + v * kLanes));
    sums.add(x, block.x_stride, weights);
    if (k + 1 == block.inputs) break;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) weights[v] = odd_input(load_pairs(w + v * kLanes));
    sums.add(x + 1, block.x_stride, weights);
  }
  sums.store(block.tile + column);
}

template <int kRows, int kVectors, bool kWide, Fetch kFetch>
inline void multiply_column(const Block& block, int64_t column) {
  if constexpr (kWide) {
    multiply_f32<kRows, kVectors, kFetch>(block, column);
  } else {
    multiply_bf16<kRows, kVectors, kFetch>(block, column);
  }
}

struct Avx2 : Epilogue {
  template <int kRows, bool kWide, Fetch kFetch>
  static void multiply(const Block& block) {
    constexpr int kVectors = kRows == 1 ? 8 : kRows == 2 ? 4 : 2;
    // The first sub-column fetches for all.
    multiply_column<kRows, kVectors, kWide, kFetch>(block, 0);
    for (int64_t column = kVectors * kLanes; column < kPanelOutputs; column += kVectors * kLanes) {
      multiply_column<kRows, kVectors, kWide, Fetch::kNone>(block, column);
    }
  }

  static void widen(const void* pairs, int64_t count, float* weights) {
    const auto* source = static_cast<const uint32_t*>(pairs);
    for (int64_t i = 0; i < count; ++i, weights += 2 * kPanelOutputs) {
      for (int64_t n = 0; n < kPanelOutputs; n += kLanes, source += kLanes) {
        const __m256i both = load_pairs(source);
        _mm256_store_ps(weights + n, even_input(both));
        _mm256_store_ps(weights + kPanelOutputs + n, odd_input(both));
      }
    }
  }
};

}  // namespace

void avx2(const Args& args, Exec exec) noexcept { product<Avx2>(args, exec); }

}  // namespace tessera::matmul
