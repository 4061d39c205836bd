#include <immintrin.h>

#include "kernels/topk/quick_select.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::topk {
namespace {

constexpr int64_t kLanes = 16;

inline __m512i load(const int32_t* keys) { return _mm512_loadu_si512(keys); }

struct Vectors {
  static void keys(const float* x, int64_t n, int32_t* keys) {
    const __m512i lowest = _mm512_set1_epi32(kLowest);
    for (int64_t i = 0; i < n; i += kLanes) {
      const __mmask16 there = tail_mask(n - i);
      // -0 becomes +0.
      const __m512 values = _mm512_add_ps(_mm512_maskz_loadu_ps(there, x + i), _mm512_setzero_ps());
      const __m512i bits = _mm512_castps_si512(values);
      const __m512i magnitude = _mm512_srli_epi32(_mm512_srai_epi32(bits, 31), 1);
      const __mmask16 numbers = _mm512_mask_cmp_ps_mask(there, values, values, _CMP_ORD_Q);
      _mm512_storeu_si512(keys + i, _mm512_mask_xor_epi32(lowest, numbers, bits, magnitude));
    }
  }

  static int64_t count_above(const int32_t* keys, int64_t n, int32_t limit) {
    const __m512i limits = _mm512_set1_epi32(limit);
    int64_t counts[2] = {0, 0};
    int64_t i = 0;
    for (; i + 2 * kLanes <= padded(n); i += 2 * kLanes) {
      for (int64_t j = 0; j < 2; ++j) {
        const __mmask16 above = _mm512_cmpgt_epi32_mask(load(keys + i + j * kLanes), limits);
        counts[j] += __builtin_popcount(above);
      }
    }
    if (i < n) counts[0] += __builtin_popcount(_mm512_cmpgt_epi32_mask(load(keys + i), limits));
    return counts[0] + counts[1];
  }

  static int64_t keep(const int32_t* keys, int64_t n, int32_t lowest, int32_t highest,
                      int32_t* kept) {
    const __m512i least = _mm512_set1_epi32(lowest), most = _mm512_set1_epi32(highest);
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += kLanes) {
      const __m512i values = load(keys + i);
      const __mmask16 inside =
          _mm512_mask_cmple_epi32_mask(_mm512_cmpge_epi32_mask(values, least), values, most);
      _mm512_storeu_si512(kept + count, _mm512_maskz_compress_epi32(inside, values));
      count += __builtin_popcount(inside);
    }
    return count;
  }

  static void emit(const int32_t* keys, int64_t n, int32_t threshold, int64_t equals,
                   int32_t* indices) {
    const __m512i limits = _mm512_set1_epi32(threshold);
    __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int64_t i = 0; i < n; i += kLanes) {
      const __m512i values = load(keys + i);
      const uint32_t equal = first_of(_mm512_cmpeq_epi32_mask(values, limits), equals);
      const auto taken = __mmask16(_mm512_cmpgt_epi32_mask(values, limits) | equal);
      const int count = __builtin_popcount(taken);
      // A compressing store to memory is slow on some CPUs, a masked one of what was compressed is
      // not.
      _mm512_mask_storeu_epi32(indices, tail_mask(count),
                               _mm512_maskz_compress_epi32(taken, places));
      indices += count;
      equals -= __builtin_popcount(equal);
      places = _mm512_add_epi32(places, _mm512_set1_epi32(kLanes));
    }
  }
};

}  // namespace

void avx512(const Args& args, Exec exec) noexcept { quick_select<Vectors>(args, exec); }

}  // namespace tessera::topk
