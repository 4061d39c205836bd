#pragma once

#include <immintrin.h>
#include <stdint.h>

// Elementary functions of 16 floats, for the AVX-512 kernels, and what their tails and epilogues
// share. Everything is static: each file that includes this has its own copy, compiled with its own
// flags. Polynomials are minimax fits (Lawson's iteration) of this project. NaN stays NaN in all
// functions.

// The first `left` lanes, all where there are more; left is not negative.
static inline __mmask16 tail_mask(int64_t left) {
  return left >= 16 ? __mmask16(0xffff) : __mmask16((1u << left) - 1);
}

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

// 1 / (1 + e^-x), within 3 ulp; 0 below -87.
static inline __m512 vector_sigmoid(__m512 x) {
  const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 d = _mm512_add_ps(one, vector_exp(_mm512_sub_ps(_mm512_setzero_ps(), x)));
  // One Newton step doubles the 14 bits of the estimate and costs a quarter of a division.
  const __m512 estimate = _mm512_rcp14_ps(d);
  return _mm512_maskz_fmadd_ps(normal, estimate, _mm512_fnmadd_ps(d, estimate, one), estimate);
}

// tanh x, within 4 eps |y|.
static inline __m512 vector_tanh(__m512 x) {
  // tanh a = m / (m + 2) with m = e^2a - 1 = 2^n (e^r - 1) + 2^n - 1; beyond 10 it rounds to 1.
  const __m512 a = _mm512_min_ps(_mm512_set1_ps(10.0f), _mm512_abs_ps(x));
  const __m512 z = _mm512_add_ps(a, a);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(z, _mm512_set1_ps(1.44269504f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693147182f), z);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-1.90465421e-9f), r);
  __m512 q = _mm512_set1_ps(0.00139464939f);
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0.00836661085f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0.0416662805f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0.166665435f));
  q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0.5f));
  const __m512 small = _mm512_fmadd_ps(_mm512_mul_ps(r, r), q, r);
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 power = _mm512_scalef_ps(one, n);
  const __m512 m = _mm512_fmadd_ps(power, small, _mm512_sub_ps(power, one));
  const __m512 y = _mm512_div_ps(m, _mm512_add_ps(m, _mm512_set1_ps(2.0f)));
  const __m512 sign = _mm512_set1_ps(-0.0f);
  return _mm512_or_ps(y, _mm512_and_ps(x, sign));
}

// erf x, within 4 eps max(|x|, |y|).
static inline __m512 vector_erf(__m512 x) {
  // erf(x) / x is a polynomial in x^2, taken about the middle of [0, 3.92^2] where its coefficients
  // stay small; beyond 3.92 erf rounds to 1.
  const __m512 s = _mm512_fmsub_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(float(2 / (3.92 * 3.92))),
                                   _mm512_set1_ps(1.0f));
  __m512 p = _mm512_set1_ps(0.00181689172f);
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(-0.00443863776f));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(0.00285648624f));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(-0.00328542758f));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(0.0129958f));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(-0.0231835507f));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(0.030471988f));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(-0.0421983525f));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(0.0581447743f));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(-0.0742654428f));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(0.0906353518f));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(-0.109157875f));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(0.134082392f));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(-0.180109158f));
  p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(0.360736817f));
  const __mmask16 beyond = _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(3.92f), _CMP_GT_OQ);
  const __m512 sign = _mm512_and_ps(x, _mm512_set1_ps(-0.0f));
  return _mm512_mask_mov_ps(_mm512_mul_ps(x, p), beyond, _mm512_or_ps(sign, _mm512_set1_ps(1.0f)));
}

// The activations; each takes its limit at the infinities. Max error 8 eps max(|y|, |x|).
static inline __m512 vector_relu(__m512 x) { return _mm512_max_ps(_mm512_setzero_ps(), x); }

// x, but no lower than where the functions below have long rounded to zero, so that -inf * 0 does
// not arise.
static inline __m512 vector_factor(__m512 x) { return _mm512_max_ps(_mm512_set1_ps(-1e3f), x); }

static inline __m512 vector_gelu_erf(__m512 x) {
  const __m512 half = _mm512_mul_ps(vector_factor(x), _mm512_set1_ps(0.5f));
  return _mm512_fmadd_ps(half, vector_erf(_mm512_mul_ps(x, _mm512_set1_ps(0.707106781f))), half);
}

static inline __m512 vector_gelu_tanh(__m512 x) {
  // (1 + tanh u) / 2 = sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
  const __m512 scale = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.0713548163f),
                                       _mm512_set1_ps(1.59576912f));
  return _mm512_mul_ps(vector_factor(x), vector_sigmoid(_mm512_mul_ps(x, scale)));
}

static inline __m512 vector_silu(__m512 x) {
  return _mm512_mul_ps(vector_factor(x), vector_sigmoid(x));
}

// The activation that is none.
static inline __m512 vector_same(__m512 x) { return x; }

// Calls visit<function>() for the function of a tessera::Activation, whose header belongs to a
// family, so that it is chosen once and not for each vector. Where an epilogue serves many register
// tiles, each would have the loops of all six if it were inlined: some are kept from it.
template <typename Activation, typename Visit>
static inline void with_activation(Activation activation, Visit visit) {
  switch (activation) {
    case Activation::kNone:
      return visit.template operator()<vector_same>();
    case Activation::kRelu:
      return visit.template operator()<vector_relu>();
    case Activation::kGeluErf:
      return visit.template operator()<vector_gelu_erf>();
    case Activation::kGeluTanh:
      return visit.template operator()<vector_gelu_tanh>();
    case Activation::kSilu:
      return visit.template operator()<vector_silu>();
    case Activation::kTanh:
      return visit.template operator()<vector_tanh>();
  }
}
