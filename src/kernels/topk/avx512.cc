#include <immintrin.h>

#include "kernels/topk/quick_select.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::topk {
namespace {

struct Vectors {
  static constexpr int64_t kLanes = 16;
  static __m512i load(const int32_t* keys) { return _mm512_loadu_si512(keys); }
  static __m512i all(int64_t key) { return _mm512_set1_epi32(int32_t(key)); }
  static __m512i places() {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }
  static __m512i plus(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }
  static uint32_t above(__m512i a, __m512i b) { return _mm512_cmpgt_epi32_mask(a, b); }
  static uint32_t equal(__m512i a, __m512i b) { return _mm512_cmpeq_epi32_mask(a, b); }
  static __m512i compressed(uint32_t mask, __m512i a) {
    return _mm512_maskz_compress_epi32(__mmask16(mask), a);
  }
  static void store(int32_t* target, __m512i a) { _mm512_storeu_si512(target, a); }
  // A compressing store to memory is slow on some CPUs, a masked one of what was compressed is not.
  static void store_first(int32_t* target, int count, __m512i a) {
    _mm512_mask_storeu_epi32(target, tail_mask(count), a);
  }

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
};

}  // namespace

void avx512(const Args& args, Exec exec) noexcept { quick_select<Vectors>(args, exec); }

}  // namespace tessera::topk
