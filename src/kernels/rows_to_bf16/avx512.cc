#include <immintrin.h>

#include "kernels/rows_to_bf16/rows_to_bf16.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::rows_to_bf16 {
namespace {

constexpr int64_t kLanes = 16;

// The upper halves of 16 floats, rounded to nearest even.
inline __m256i rounded(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __m512i upper = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
  const __mmask16 nan = _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
  const __mmask16 tiny = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(0x00800000));
  const __m512i quiet = _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
  const __m512i sign = _mm512_set1_epi32(0x8000);
  return _mm512_cvtepi32_epi16(_mm512_mask_and_epi32(quiet, tiny, upper, sign));
}

inline void store(uint16_t* y, __m256i values) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), values);
}

}  // namespace

void avx512(const Args& args, Exec exec) noexcept {
  for (int64_t m = exec.begin; m < exec.end; ++m) {
    const float* x = args.x + m * args.x_stride;
    uint16_t* y = args.y + m * args.y_stride;
    int64_t k = 0;
    for (; k + kLanes <= args.inputs; k += kLanes) store(y + k, rounded(_mm512_loadu_ps(x + k)));
    if (k < args.inputs) {
      store(y + k, rounded(_mm512_maskz_loadu_ps(tail_mask(args.inputs - k), x + k)));
      k += kLanes;
    }
    if (k % kMultiple != 0) store(y + k, _mm256_setzero_si256());
  }
}

}  // namespace tessera::rows_to_bf16
