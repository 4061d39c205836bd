#pragma once

#include <immintrin.h>
#include <stdint.h>

// Elementary functions of 8 floats, for the AVX2 kernels, and what their tails and epilogues share.
// Everything is static: each file that includes this has its own copy, compiled with its own flags.
// Polynomials are minimax fits (Lawson's iteration) of this project. NaN stays NaN in all
// functions.

// The first `left` lanes, all where there are more, none where it is negative.
static inline __m256i tail_mask(int64_t left) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(left > 8 ? 8 : int(left)), lanes);
}

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

// 1 / (1 + e^-x), within 3 ulp; 0 below -89.
static inline __m256 vector_sigmoid(__m256 x) {
  const __m256 one = _mm256_set1_ps(1.0f);
  return _mm256_div_ps(one, _mm256_add_ps(one, vector_exp(_mm256_sub_ps(_mm256_setzero_ps(), x))));
}

// tanh x, within 4 eps |y|.
static inline __m256 vector_tanh(__m256 x) {
  // tanh a = m / (m + 2) with m = e^2a - 1 = 2^n (e^r - 1) + 2^n - 1; beyond 10 it rounds to 1.
  const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f));
  const __m256 a = _mm256_min_ps(_mm256_set1_ps(10.0f), _mm256_xor_ps(x, sign));
  const __m256 z = _mm256_add_ps(a, a);
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(z, _mm256_set1_ps(1.44269504f)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693147182f), z);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-1.90465421e-9f), r);
  __m256 q = _mm256_set1_ps(0.00139464939f);
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0.00836661085f));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0.0416662805f));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0.166665435f));
  q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0.5f));
  const __m256 small = _mm256_fmadd_ps(_mm256_mul_ps(r, r), q, r);
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 power = _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(one), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
  const __m256 m = _mm256_fmadd_ps(power, small, _mm256_sub_ps(power, one));
  return _mm256_or_ps(_mm256_div_ps(m, _mm256_add_ps(m, _mm256_set1_ps(2.0f))), sign);
}

// erf x, within 4 eps max(|x|, |y|).
static inline __m256 vector_erf(__m256 x) {
  // erf(x) / x is a polynomial in x^2, taken about the middle of [0, 3.92^2] where its coefficients
  // stay small; beyond 3.92 erf rounds to 1.
  const __m256 s = _mm256_fmsub_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(float(2 / (3.92 * 3.92))),
                                   _mm256_set1_ps(1.0f));
  __m256 p = _mm256_set1_ps(0.00181689172f);
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(-0.00443863776f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(0.00285648624f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(-0.00328542758f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(0.0129958f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(-0.0231835507f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(0.030471988f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(-0.0421983525f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(0.0581447743f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(-0.0742654428f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(0.0906353518f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(-0.109157875f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(0.134082392f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(-0.180109158f));
  p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(0.360736817f));
  const __m256 sign = _mm256_and_ps(x, _mm256_set1_ps(-0.0f));
  const __m256 beyond = _mm256_cmp_ps(_mm256_xor_ps(x, sign), _mm256_set1_ps(3.92f), _CMP_GT_OQ);
  return _mm256_blendv_ps(_mm256_mul_ps(x, p), _mm256_or_ps(sign, _mm256_set1_ps(1.0f)), beyond);
}

// The activations; each takes its limit at the infinities. Max error 8 eps max(|y|, |x|).
static inline __m256 vector_relu(__m256 x) { return _mm256_max_ps(_mm256_setzero_ps(), x); }

// x, but no lower than where the functions below have long rounded to zero, so that -inf * 0 does
// not arise.
static inline __m256 vector_factor(__m256 x) { return _mm256_max_ps(_mm256_set1_ps(-1e3f), x); }

static inline __m256 vector_gelu_erf(__m256 x) {
  const __m256 half = _mm256_mul_ps(vector_factor(x), _mm256_set1_ps(0.5f));
  return _mm256_fmadd_ps(half, vector_erf(_mm256_mul_ps(x, _mm256_set1_ps(0.707106781f))), half);
}

static inline __m256 vector_gelu_tanh(__m256 x) {
  // (1 + tanh u) / 2 = sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
  const __m256 scale = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(0.0713548163f),
                                       _mm256_set1_ps(1.59576912f));
  return _mm256_mul_ps(vector_factor(x), vector_sigmoid(_mm256_mul_ps(x, scale)));
}

static inline __m256 vector_silu(__m256 x) {
  return _mm256_mul_ps(vector_factor(x), vector_sigmoid(x));
}

// The activation that is none.
static inline __m256 vector_same(__m256 x) { return x; }

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
