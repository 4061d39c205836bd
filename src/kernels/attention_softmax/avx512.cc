#include <immintrin.h>
#include <math.h>

#include "kernels/attention_softmax/attention_softmax.h"

namespace tessera::attention_softmax {
namespace {

constexpr int32_t kLanes = 16;

// 2^x for x <= 0: a polynomial of degree 5 fitted on [-1/2, 1/2] with p(0) = 1 (largest relative
// error 9.2e-8) and an exact scaling. 0 below -126, as denormal numbers would slow the products
// with the values; NaN stays.
inline __m512 power_of_two(__m512 x) {
  const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  // Adding 1.5 * 2^23 leaves no bits for a fraction: rounding to a whole number in two additions,
  // on either port.
  const __m512 rounder = _mm512_set1_ps(12582912.0f);
  const __m512 whole = _mm512_sub_ps(_mm512_add_ps(x, rounder), rounder);
  const __m512 f = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(1.32647271e-3f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.67151264e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55073374e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40222421e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93146978e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(normal, p, whole);
}

// Lanes [first, first + 16) that lie in [begin, end).
inline __mmask16 visible(int32_t first, int32_t begin, int32_t end) {
  const __m512i lane =
      _mm512_add_epi32(_mm512_set1_epi32(first),
                       _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  return _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(begin)) &
         _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(end));
}

void add_bias(float* s, const float* bias, int32_t begin, int32_t end) {
  const __m512 log2e = _mm512_set1_ps(kLog2E);
  for (int32_t j = begin; j < end; j += kLanes) {
    const __mmask16 mask = visible(j, begin, end);
    const __m512 sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, bias + j), log2e,
                                       _mm512_maskz_loadu_ps(mask, s + j));
    _mm512_mask_storeu_ps(s + j, mask, sum);
  }
}

// Hides what the row does not see: -inf within the vectors [first, last) that hold a visible key,
// and zeros in the rest of their blocks.
void hide(float* s, int32_t begin, int32_t end) {
  const int32_t first = begin / kLanes * kLanes, last = (end + kLanes - 1) / kLanes * kLanes;
  const __m512 nothing = _mm512_set1_ps(-INFINITY);
  if (begin > first) {
    _mm512_storeu_ps(s + first,
                     _mm512_mask_loadu_ps(nothing, visible(first, begin, end), s + first));
  }
  if (end < last) {
    const int32_t edge = last - kLanes;
    _mm512_storeu_ps(s + edge, _mm512_mask_loadu_ps(nothing, visible(edge, begin, end), s + edge));
  }
  for (int32_t j = first / kBlock * kBlock; j < first; j += kLanes) {
    _mm512_storeu_ps(s + j, _mm512_setzero_ps());
  }
  for (int32_t j = last; j % kBlock != 0; j += kLanes) _mm512_storeu_ps(s + j, _mm512_setzero_ps());
}

float maximum_of(const float* s, int32_t first, int32_t last, float start) {
  __m512 a = _mm512_set1_ps(start), b = a;
  int32_t j = first;
  for (; j + 2 * kLanes <= last; j += 2 * kLanes) {
    a = _mm512_max_ps(a, _mm512_loadu_ps(s + j));
    b = _mm512_max_ps(b, _mm512_loadu_ps(s + j + kLanes));
  }
  if (j < last) a = _mm512_max_ps(a, _mm512_loadu_ps(s + j));
  return _mm512_reduce_max_ps(_mm512_max_ps(a, b));
}

float exponentials(float* s, int32_t first, int32_t last, float base) {
  const __m512 center = _mm512_set1_ps(base);
  __m512 a = _mm512_setzero_ps(), b = a;
  int32_t j = first;
  for (; j + 2 * kLanes <= last; j += 2 * kLanes) {
    const __m512 p = power_of_two(_mm512_sub_ps(_mm512_loadu_ps(s + j), center));
    const __m512 q = power_of_two(_mm512_sub_ps(_mm512_loadu_ps(s + j + kLanes), center));
    a = _mm512_add_ps(a, p);
    b = _mm512_add_ps(b, q);
    _mm512_storeu_ps(s + j, p);
    _mm512_storeu_ps(s + j + kLanes, q);
  }
  if (j < last) {
    const __m512 p = power_of_two(_mm512_sub_ps(_mm512_loadu_ps(s + j), center));
    a = _mm512_add_ps(a, p);
    _mm512_storeu_ps(s + j, p);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(a, b));
}

// The row's visible part, relative to the step.
struct Span {
  int32_t begin, end;
  int32_t first, last;  // the vectors that hold it
};

inline Span visible_span(const Args& args, int64_t r) {
  int32_t begin = args.begin[r] - args.first_key, end = args.end[r] - args.first_key;
  begin = begin > 0 ? begin : 0;
  end = end < args.keys ? end : args.keys;
  return {begin, end, begin / kLanes * kLanes, (end + kLanes - 1) / kLanes * kLanes};
}

// Rows whose maxima are found before their exponentials, so that these do not wait for the
// reduction; 8 rows of 256 keys stay in the first-level cache.
constexpr int64_t kTogether = 8;

void group(const Args& args, int64_t first_row, int64_t last_row) {
  float maxima[kTogether];
  for (int64_t r = first_row; r < last_row; ++r) {
    float* s = args.scores + r * args.scores_stride;
    const Span span = visible_span(args, r);
    if (span.begin >= span.end) continue;
    if (args.bias != nullptr) add_bias(s, args.bias[r] + args.first_key, span.begin, span.end);
    hide(s, span.begin, span.end);
    maxima[r - first_row] = maximum_of(s, span.first, span.last, args.maximum[r]);
  }
  for (int64_t r = first_row; r < last_row; ++r) {
    const Span span = visible_span(args, r);
    args.rescale[r] = 1;
    if (span.begin >= span.end) continue;
    const float before = args.maximum[r], maximum = maxima[r - first_row];
    const float base = maximum == -INFINITY ? 0 : maximum;
    const float sum =
        exponentials(args.scores + r * args.scores_stride, span.first, span.last, base);
    const float rescale = _mm512_cvtss_f32(power_of_two(_mm512_set1_ps(before - base)));
    args.rescale[r] = rescale;
    args.sum[r] = args.sum[r] * rescale + sum;
    args.maximum[r] = maximum;
  }
}

}  // namespace

void avx512(const Args& args, Exec exec) noexcept {
  for (int64_t r = exec.begin; r < exec.end; r += kTogether) {
    group(args, r, exec.end - r < kTogether ? exec.end : r + kTogether);
  }
}

}  // namespace tessera::attention_softmax
