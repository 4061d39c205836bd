#include <immintrin.h>

#include "kernels/matmul/blocked.h"
#include "kernels/matmul/finish_avx512.h"
#include "kernels/matmul/matmul.h"

namespace tessera::matmul {
namespace {

constexpr int kVectors = kPanelOutputs / kLanes;

// Sums of one tile, in kParts chains per output that are added at the end: flat tiles need several
// to hide the latency of the multiply-add.
template <int kRows, int kParts>
struct Sums {
  __m512 at[kParts][kRows][kVectors];

  inline void start(const Block& block) {
    for (int p = 0; p < kParts; ++p) {
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          at[p][r][v] = p == 0 && block.accumulate
                            ? _mm512_load_ps(block.tile + r * kPanelOutputs + v * kLanes)
                            : _mm512_setzero_ps();
        }
      }
    }
  }
  inline void add(int p, const float* x, int64_t x_stride, const __m512* weights) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512 value = _mm512_set1_ps(x[r * x_stride]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        at[p][r][v] = _mm512_fmadd_ps(value, weights[v], at[p][r][v]);
      }
    }
  }
  inline void store(const Block& block) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        __m512 sum = at[0][r][v];
        for (int p = 1; p < kParts; ++p) sum = _mm512_add_ps(sum, at[p][r][v]);
        _mm512_store_ps(block.tile + r * kPanelOutputs + v * kLanes, sum);
      }
    }
  }
};

inline __m512 even_input(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}
inline __m512 odd_input(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000))));
}

template <int kRows, Fetch kFetch>
inline void multiply_f32(const Block& block) {
  constexpr int kParts = kRows <= 1 ? 4 : kRows <= 2 ? 2 : 1;
  Sums<kRows, kParts> sums;
  sums.start(block);
  const float* x = block.x;
  const float* w = static_cast<const float*>(block.weights);
  const auto step = [&](int p) {
    __m512 weights[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) weights[v] = _mm512_load_ps(w + v * kLanes);
    sums.add(p, x, block.x_stride, weights);
    ++x;
    w += kPanelOutputs;
  };
  int64_t k = 0;
  for (; k + kParts <= block.inputs; k += kParts) {
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      fetch<kFetch, 1>(w, block.ahead + (k + p) * kLineBytes);
      step(p);
    }
  }
  for (; k < block.inputs; ++k) step(0);
  sums.store(block);
}

template <int kRows, Fetch kFetch>
inline void multiply_bf16(const Block& block) {
  constexpr int kParts = kRows <= 2 ? 2 : 1;
  Sums<kRows, kParts> sums;
  sums.start(block);
  const float* x = block.x;
  const uint32_t* w = static_cast<const uint32_t*>(block.weights);
  int64_t k = 0;
  for (; k + 2 <= block.inputs; k += 2, x += 2, w += kPanelOutputs) {
    fetch<kFetch, 2>(w, block.ahead + k * kLineBytes);
    __m512 even[kVectors], odd[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const __m512i pairs = _mm512_load_si512(w + v * kLanes);
      even[v] = even_input(pairs);
      odd[v] = odd_input(pairs);
    }
    sums.add(0, x, block.x_stride, even);
    sums.add(kParts - 1, x + 1, block.x_stride, odd);
  }
  if (k < block.inputs) {
    __m512 even[kVectors];
    for (int v = 0; v < kVectors; ++v) even[v] = even_input(_mm512_load_si512(w + v * kLanes));
    sums.add(0, x, block.x_stride, even);
  }
  sums.store(block);
}

struct Avx512 : Epilogue {
  template <int kRows, bool kWide, Fetch kFetch>
  static void multiply(const Block& block) {
    if constexpr (kWide) {
      multiply_f32<kRows, kFetch>(block);
    } else {
      multiply_bf16<kRows, kFetch>(block);
    }
  }

  static void widen(const void* pairs, int64_t count, float* weights) {
    const auto* source = static_cast<const uint32_t*>(pairs);
    for (int64_t i = 0; i < count; ++i, weights += 2 * kPanelOutputs) {
      for (int v = 0; v < kVectors; ++v, source += kLanes) {
        const __m512i both = _mm512_load_si512(source);
        _mm512_store_ps(weights + v * kLanes, even_input(both));
        _mm512_store_ps(weights + kPanelOutputs + v * kLanes, odd_input(both));
      }
    }
  }
};

}  // namespace

void avx512(const Args& args, Exec exec) noexcept { product<Avx512>(args, exec); }

}  // namespace tessera::matmul
