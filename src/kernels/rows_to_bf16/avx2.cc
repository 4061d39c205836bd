#include <immintrin.h>

#include "kernels/rows_to_bf16/rows_to_bf16.h"
#include "kernels/vector_math_avx2.h"

namespace tessera::rows_to_bf16 {
namespace {

constexpr int64_t kLanes = 8;

// The upper halves of 8 floats, rounded to nearest even, each in the lower half of a lane.
inline __m256i rounded(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
  const __m256i upper = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  const __m256i nearest = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
  const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
  const __m256i tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  const __m256i sign = _mm256_and_si256(upper, _mm256_set1_epi32(0x8000));
  return _mm256_blendv_epi8(_mm256_blendv_epi8(nearest, quiet, nan), sign, tiny);
}

inline __m256 load(const float* x, int64_t left) {
  if (left >= kLanes) return _mm256_loadu_ps(x);
  return _mm256_maskload_ps(x, tail_mask(left));
}

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  const int64_t padded = (args.inputs + kMultiple - 1) / kMultiple * kMultiple;
  for (int64_t m = exec.begin; m < exec.end; ++m) {
    const float* x = args.x + m * args.x_stride;
    uint16_t* y = args.y + m * args.y_stride;
    for (int64_t k = 0; k < padded; k += 2 * kLanes) {
      const int64_t left = args.inputs - k;
      __m256i both = _mm256_setzero_si256();
      if (left > 0) {
        const __m256i low = rounded(load(x + k, left));
        const __m256i high = left > kLanes ? rounded(load(x + k + kLanes, left - kLanes)) : both;
        // The pack works within halves of a vector.
        both = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
      }
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + k), both);
    }
  }
}

}  // namespace tessera::rows_to_bf16
