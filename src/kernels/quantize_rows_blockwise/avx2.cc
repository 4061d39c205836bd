#include <immintrin.h>

#include "kernels/quantize_rows_blockwise/blocked.h"
#include "kernels/quantize_rows_blockwise/quantize_rows_blockwise.h"
#include "kernels/vector_math_avx2.h"

namespace tessera::quantize_rows_blockwise {
namespace {

constexpr int kLanes = 8;

inline __m256 load_part(const float* x, int64_t left) {
  if (left >= kLanes) return _mm256_loadu_ps(x);
  return _mm256_maskload_ps(x, tail_mask(left));
}

inline __m256 load(const Block& block, int64_t k) {
  const __m256 x = load_part(block.x + k, block.count - k);
  if (block.multipliers == nullptr) return x;
  return _mm256_mul_ps(x, load_part(block.multipliers + k, block.count - k));
}

// The result of an operation on all lanes, by halves.
template <__m128i (*both)(__m128i, __m128i)>
inline int32_t reduce(__m256i all) {
  __m128i half = both(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  half = both(half, _mm_shuffle_epi32(half, 0x4e));
  half = both(half, _mm_shuffle_epi32(half, 0xb1));
  return _mm_cvtsi128_si32(half);
}
inline __m128i larger(__m128i a, __m128i b) { return _mm_max_epi32(a, b); }
inline __m128i added(__m128i a, __m128i b) { return _mm_add_epi32(a, b); }

inline __m128i narrow(__m256i integers) {
  return _mm_packs_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256(integers, 1));
}
// Stores integers of 16 bits that each fit a byte.
inline void store_bytes(char* at, __m128i integers) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(at), _mm_packs_epi16(integers, integers));
}

template <RowForm kForm>
inline void store(const Block& block, int64_t k, __m256i integers) {
  if constexpr (kForm == RowForm::k8) {
    store_bytes(block.values + k, narrow(integers));
  } else if constexpr (kForm == RowForm::k16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(block.values + 2 * k),
                     narrow(_mm256_shuffle_epi32(integers, 0xd8)));
  } else {
    const __m128i both = narrow(integers);
    store_bytes(block.values + k, _mm_srai_epi16(_mm_slli_epi16(both, 8), 8));
    store_bytes(block.values + block.high + k,
                _mm_srai_epi16(_mm_add_epi16(both, _mm_set1_epi16(128)), 8));
  }
}

struct Avx2 {
  template <RowForm kForm>
  static void round(const Block& block) {
    constexpr float kMost = most(kForm);
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i largest = _mm256_setzero_si256();
    for (int64_t k = 0; k < block.count; k += kLanes) {
      const __m256i bits = _mm256_castps_si256(load(block, k));
      largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, magnitude));
    }
    const float factor = set_scale(reduce<larger>(largest), kMost, block.scale);
    __m256i sum = _mm256_setzero_si256();
    for (int64_t k = 0; k < block.count; k += kLanes) {
      __m256i integers = _mm256_setzero_si256();
      // Not what is not finite.
      if (factor != 0) {
        integers = _mm256_cvtps_epi32(_mm256_mul_ps(load(block, k), _mm256_set1_ps(factor)));
      }
      sum = _mm256_add_epi32(sum, integers);
      store<kForm>(block, k, integers);
    }
    *block.sum = reduce<added>(sum);
  }
};

}  // namespace

void avx2(const Args& args, Exec exec) noexcept { round_all<Avx2>(args, exec); }

}  // namespace tessera::quantize_rows_blockwise
