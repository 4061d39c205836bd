#pragma once

#include <immintrin.h>

// Elementary functions of 16 floats, for the AVX-512 kernels. Everything is static: each file that
// includes this has its own copy, compiled with its own flags. Polynomials are minimax fits
// (Lawson's iteration) of this project. NaN stays NaN in all of them.

// e^x, within 2 ulp on [-87.33, 88.72]; 0 below, +inf above.
static inline __m512 vector_exp(__m512 x) {
  // e^x = 2^n e^r, |r| <= log(2)/2; the product n * hi is exact inside the fused operation.
  const __m512 clamped = _mm512_min_ps(_mm512_set1_ps(89.0f), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(clamped, _mm512_set1_ps(1.44269504f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693147182f), clamped);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-1.90465421e-9f), r);
  __m512 q = _mm512_set1_ps(0.00139505381f);
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0.00836891774f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0.041666206f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0.166665182f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0.5f));
  const __m512 power =
      _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(r, r), q, r), _mm512_set1_ps(1.0f));
  const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.33f), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(normal, power, n);
}
