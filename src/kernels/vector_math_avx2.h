#pragma once

#include <immintrin.h>

// Elementary functions of 8 floats, for the AVX2 kernels. Everything is static: each file that
// includes this has its own copy, compiled with its own flags. Polynomials are minimax fits
// (Lawson's iteration) of this project. NaN stays NaN in all of them.

// e^x, within 2 ulp on [-87.33, 88.72]; 0 below, +inf above.
static inline __m256 vector_exp(__m256 x) {
  // e^x = 2^n e^r, |r| <= log(2)/2; the product n * hi is exact inside the fused operation.
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693147182f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-1.90465421e-9f), r);
  __m256 q = _mm256_set1_ps(0.00139505381f);
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0.00836891774f));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0.041666206f));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0.166665182f));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0.5f));
  const __m256 power =
      _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(r, r), q, r), _mm256_set1_ps(1.0f));
  // Adding n to the exponent is exact while the result is normal; outside that, and only there, it
  // is replaced.
  const __m256i scaled =
      _mm256_add_epi32(_mm256_castps_si256(power), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23));
  const __m256 low = _mm256_cmp_ps(x, _mm256_set1_ps(-87.33f), _CMP_LT_OQ);
  const __m256 high = _mm256_cmp_ps(x, _mm256_set1_ps(88.72283f), _CMP_GT_OQ);
  const __m256 y = _mm256_andnot_ps(low, _mm256_castsi256_ps(scaled));
  return _mm256_blendv_ps(y, _mm256_set1_ps(__builtin_inff()), high);
}
