#include <immintrin.h>

#include "kernels/quantize_rows_blockwise/blocked.h"
#include "kernels/quantize_rows_blockwise/quantize_rows_blockwise.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::quantize_rows_blockwise {
namespace {

constexpr int kLanes = 16;

inline __m512 load(const Block& block, int64_t k) {
  const __mmask16 mask = tail_mask(block.count - k);
  const __m512 x = _mm512_maskz_loadu_ps(mask, block.x + k);
  if (block.multipliers == nullptr) return x;
  return _mm512_mul_ps(x, _mm512_maskz_loadu_ps(mask, block.multipliers + k));
}

inline void store_bytes(char* at, __m512i integers) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm512_cvtepi32_epi8(integers));
}

template <RowForm kForm>
inline void store(const Block& block, int64_t k, __m512i integers) {
  if constexpr (kForm == RowForm::k16) {
    const __m512i placed = _mm512_shuffle_epi32(integers, _MM_PERM_DBCA);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(block.values + 2 * k),
                        _mm512_cvtepi32_epi16(placed));
    return;
  }
  store_bytes(block.values + k, integers);
  if constexpr (kForm == RowForm::k16Split) {
    const __m512i rounded = _mm512_add_epi32(integers, _mm512_set1_epi32(128));
    store_bytes(block.values + block.high + k, _mm512_srai_epi32(rounded, 8));
  }
}

struct Avx512 {
  template <RowForm kForm>
  static void round(const Block& block) {
    constexpr float kMost = most(kForm);
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i largest = _mm512_setzero_si512();
    for (int64_t k = 0; k < block.count; k += kLanes) {
      const __m512i bits = _mm512_castps_si512(load(block, k));
      largest = _mm512_max_epi32(largest, _mm512_and_si512(bits, magnitude));
    }
    const float factor = set_scale(_mm512_reduce_max_epi32(largest), kMost, block.scale);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t k = 0; k < block.count; k += kLanes) {
      __m512i integers = _mm512_setzero_si512();
      // Not what is not finite.
      if (factor != 0) {
        integers = _mm512_cvtps_epi32(_mm512_mul_ps(load(block, k), _mm512_set1_ps(factor)));
      }
      sum = _mm512_add_epi32(sum, integers);
      store<kForm>(block, k, integers);
    }
    *block.sum = _mm512_reduce_add_epi32(sum);
  }
};

}  // namespace

void avx512(const Args& args, Exec exec) noexcept { round_all<Avx512>(args, exec); }

}  // namespace tessera::quantize_rows_blockwise
