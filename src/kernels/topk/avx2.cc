#include <immintrin.h>

#include "kernels/topk/quick_select.h"
#include "kernels/vector_math_avx2.h"

namespace tessera::topk {
namespace {

// For each mask of 8 lanes, the set ones first.
struct Orders {
  alignas(64) uint8_t lanes[256][8] = {};
};
constexpr Orders kOrders = [] {
  Orders orders;
  for (int mask = 0; mask < 256; ++mask) {
    int count = 0;
    for (uint8_t lane = 0; lane < 8; ++lane) {
      if ((mask >> lane & 1) != 0) orders.lanes[mask][count++] = lane;
    }
  }
  return orders;
}();

inline uint32_t lanes_of(__m256i mask) {
  return uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(mask)));
}

struct Vectors {
  static constexpr int64_t kLanes = 8;
  static __m256i load(const int32_t* keys) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys));
  }
  static __m256i all(int64_t key) { return _mm256_set1_epi32(int32_t(key)); }
  static __m256i places() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static __m256i plus(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
  static uint32_t above(__m256i a, __m256i b) { return lanes_of(_mm256_cmpgt_epi32(a, b)); }
  static uint32_t equal(__m256i a, __m256i b) { return lanes_of(_mm256_cmpeq_epi32(a, b)); }
  static __m256i compressed(uint32_t mask, __m256i a) {
    const __m128i order = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kOrders.lanes[mask]));
    return _mm256_permutevar8x32_epi32(a, _mm256_cvtepu8_epi32(order));
  }
  static void store(int32_t* target, __m256i a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), a);
  }
  static void store_first(int32_t* target, int count, __m256i a) {
    _mm256_maskstore_epi32(target, tail_mask(count), a);
  }

  static void keys(const float* x, int64_t n, int32_t* keys) {
    const __m256i lowest = _mm256_set1_epi32(kLowest);
    for (int64_t i = 0; i < padded(n); i += kLanes) {
      const __m256i there = tail_mask(n - i);
      // -0 becomes +0.
      const __m256 values = _mm256_add_ps(_mm256_maskload_ps(x + i, there), _mm256_setzero_ps());
      const __m256i bits = _mm256_castps_si256(values);
      const __m256i magnitude = _mm256_srli_epi32(_mm256_srai_epi32(bits, 31), 1);
      const __m256i ordered = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_ORD_Q));
      store(keys + i, _mm256_blendv_epi8(lowest, _mm256_xor_si256(bits, magnitude),
                                         _mm256_and_si256(ordered, there)));
    }
  }

  static int64_t count_above(const int32_t* keys, int64_t n, int32_t limit) {
    const __m256i limits = _mm256_set1_epi32(limit);
    __m256i counts[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int64_t i = 0; i < padded(n); i += 2 * kLanes) {
      for (int64_t j = 0; j < 2; ++j) {
        const __m256i above = _mm256_cmpgt_epi32(load(keys + i + j * kLanes), limits);
        counts[j] = _mm256_sub_epi32(counts[j], above);
      }
    }
    const __m256i pairs = _mm256_add_epi32(counts[0], counts[1]);
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return _mm_cvtsi128_si32(sum);
  }
};

}  // namespace

void avx2(const Args& args, Exec exec) noexcept { quick_select<Vectors>(args, exec); }

}  // namespace tessera::topk
