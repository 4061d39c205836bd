#include <immintrin.h>
#include <math.h>

#include "kernels/norm/norm.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::norm {
namespace {

constexpr int64_t kLanes = 16;

float sum(const float* x, int64_t cols) {
  __m512 a = _mm512_setzero_ps(), b = _mm512_setzero_ps();
  for (int64_t c = 0; c < cols; c += 2 * kLanes) {
    a = _mm512_add_ps(a, _mm512_maskz_loadu_ps(tail_mask(cols - c), x + c));
    if (c + kLanes < cols)
      b = _mm512_add_ps(b, _mm512_maskz_loadu_ps(tail_mask(cols - c - kLanes), x + c + kLanes));
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(a, b));
}

float sum_of_squares(const float* x, int64_t cols, float mean) {
  const __m512 center = _mm512_set1_ps(mean);
  __m512 a = _mm512_setzero_ps();
  for (int64_t c = 0; c < cols; c += kLanes) {
    const __mmask16 mask = tail_mask(cols - c);
    const __m512 d = _mm512_maskz_sub_ps(mask, _mm512_maskz_loadu_ps(mask, x + c), center);
    a = _mm512_fmadd_ps(d, d, a);
  }
  return _mm512_reduce_add_ps(a);
}

}  // namespace

void avx512(const Args& args, Exec exec) noexcept {
  const float count = static_cast<float>(args.cols);
  const __m512 offset = _mm512_set1_ps(args.weight_offset);
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const float* x = args.x + r * args.x_stride;
    float* y = args.y + r * args.y_stride;
    const float mean = args.kind == Kind::kLayer ? sum(x, args.cols) / count : 0.0f;
    const float scale = 1.0f / sqrtf(sum_of_squares(x, args.cols, mean) / count + args.eps);
    const __m512 center = _mm512_set1_ps(mean), factor = _mm512_set1_ps(scale);
    for (int64_t c = 0; c < args.cols; c += kLanes) {
      const __mmask16 mask = tail_mask(args.cols - c);
      const __m512 unit =
          _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + c), center), factor);
      const __m512 weight = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, args.weight + c), offset);
      const __m512 bias =
          args.bias != nullptr ? _mm512_maskz_loadu_ps(mask, args.bias + c) : _mm512_setzero_ps();
      _mm512_mask_storeu_ps(y + c, mask, _mm512_fmadd_ps(unit, weight, bias));
    }
  }
}

}  // namespace tessera::norm
