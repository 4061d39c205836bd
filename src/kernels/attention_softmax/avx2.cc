#include <immintrin.h>
#include <math.h>

#include "kernels/attention_softmax/attention_softmax.h"

namespace tessera::attention_softmax {
namespace {

constexpr int32_t kLanes = 8;

// 2^x for x <= 0: a polynomial of degree 5 fitted on [-1/2, 1/2] with p(0) = 1 (largest relative
// error 9.2e-8) and an exact scaling. Below -126, where the exponent ends, 0; NaN stays, as the
// larger of two is the second where they do not compare.
inline __m256 power_of_two(__m256 x) {
  const __m256 floor = _mm256_set1_ps(-126.0f);
  const __m256 bounded = _mm256_max_ps(floor, x);
  const __m256 whole = _mm256_round_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 f = _mm256_sub_ps(bounded, whole);
  __m256 p = _mm256_set1_ps(1.32647271e-3f);
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(9.67151264e-3f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(5.55073374e-2f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(2.40222421e-1f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(6.93146978e-1f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
  const __m256i exponent =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
  const __m256 scaled = _mm256_mul_ps(p, _mm256_castsi256_ps(exponent));
  return _mm256_and_ps(scaled, _mm256_cmp_ps(x, floor, _CMP_NLT_UQ));
}

// All bits of the lanes [first, first + 8) that lie in [begin, end).
inline __m256i visible(int32_t first, int32_t begin, int32_t end) {
  const __m256i lane =
      _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  return _mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(begin - 1)),
                          _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
}

void add_bias(float* s, const float* bias, int32_t begin, int32_t end) {
  const __m256 log2e = _mm256_set1_ps(kLog2E);
  for (int32_t j = begin; j < end; j += kLanes) {
    const __m256i mask = visible(j, begin, end);
    _mm256_maskstore_ps(s + j, mask,
                        _mm256_fmadd_ps(_mm256_maskload_ps(bias + j, mask), log2e,
                                        _mm256_maskload_ps(s + j, mask)));
  }
}

void hide_edge(float* s, int32_t at, int32_t begin, int32_t end) {
  const __m256 seen = _mm256_castsi256_ps(visible(at, begin, end));
  _mm256_storeu_ps(s + at,
                   _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), _mm256_loadu_ps(s + at), seen));
}

// Hides what the row does not see: -inf within the vectors that hold a visible key, and zeros in
// the rest of their blocks.
void hide(float* s, int32_t begin, int32_t end) {
  const int32_t first = begin / kLanes * kLanes, last = (end + kLanes - 1) / kLanes * kLanes;
  if (begin > first) hide_edge(s, first, begin, end);
  if (end < last) hide_edge(s, last - kLanes, begin, end);
  for (int32_t j = first / kBlock * kBlock; j < first; j += kLanes) {
    _mm256_storeu_ps(s + j, _mm256_setzero_ps());
  }
  for (int32_t j = last; j % kBlock != 0; j += kLanes) _mm256_storeu_ps(s + j, _mm256_setzero_ps());
}

inline __m128 halves_max(__m256 v) {
  return _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
}

float maximum_of(const float* s, int32_t first, int32_t last, float start) {
  __m256 a = _mm256_set1_ps(start), b = a;
  int32_t j = first;
  for (; j + 2 * kLanes <= last; j += 2 * kLanes) {
    a = _mm256_max_ps(a, _mm256_loadu_ps(s + j));
    b = _mm256_max_ps(b, _mm256_loadu_ps(s + j + kLanes));
  }
  if (j < last) a = _mm256_max_ps(a, _mm256_loadu_ps(s + j));
  __m128 m = halves_max(_mm256_max_ps(a, b));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

float exponentials(float* s, int32_t first, int32_t last, float base) {
  const __m256 center = _mm256_set1_ps(base);
  __m256 a = _mm256_setzero_ps();
  for (int32_t j = first; j < last; j += kLanes) {
    const __m256 p = power_of_two(_mm256_sub_ps(_mm256_loadu_ps(s + j), center));
    a = _mm256_add_ps(a, p);
    _mm256_storeu_ps(s + j, p);
  }
  __m128 t = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  t = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    float* s = args.scores + r * args.scores_stride;
    int32_t begin = args.begin[r] - args.first_key, end = args.end[r] - args.first_key;
    begin = begin > 0 ? begin : 0;
    end = end < args.keys ? end : args.keys;
    args.rescale[r] = 1;
    if (begin >= end) continue;
    if (args.bias != nullptr) add_bias(s, args.bias[r] + args.first_key, begin, end);
    hide(s, begin, end);
    const int32_t first = begin / kLanes * kLanes, last = (end + kLanes - 1) / kLanes * kLanes;
    const float before = args.maximum[r];
    const float maximum = maximum_of(s, first, last, before);
    const float base = maximum == -INFINITY ? 0 : maximum;
    const float sum = exponentials(s, first, last, base);
    const float rescale = _mm256_cvtss_f32(power_of_two(_mm256_set1_ps(before - base)));
    args.rescale[r] = rescale;
    args.sum[r] = args.sum[r] * rescale + sum;
    args.maximum[r] = maximum;
  }
}

}  // namespace tessera::attention_softmax
