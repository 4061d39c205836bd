#include <immintrin.h>
#include <math.h>

#include "kernels/norm/norm.h"

namespace tessera::norm {
namespace {

constexpr int64_t kLanes = 8;

float reduce(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

float sum(const float* x, int64_t cols) {
  __m256 a = _mm256_setzero_ps();
  int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) a = _mm256_add_ps(a, _mm256_loadu_ps(x + c));
  float total = reduce(a);
  for (; c < cols; ++c) total += x[c];
  return total;
}

float sum_of_squares(const float* x, int64_t cols, float mean) {
  const __m256 center = _mm256_set1_ps(mean);
  __m256 a = _mm256_setzero_ps();
  int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) {
    const __m256 d = _mm256_sub_ps(_mm256_loadu_ps(x + c), center);
    a = _mm256_fmadd_ps(d, d, a);
  }
  float total = reduce(a);
  for (; c < cols; ++c) total += (x[c] - mean) * (x[c] - mean);
  return total;
}

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  const float count = static_cast<float>(args.cols);
  const __m256 offset = _mm256_set1_ps(args.weight_offset);
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const float* x = args.x + r * args.x_stride;
    float* y = args.y + r * args.y_stride;
    const float mean = args.kind == Kind::kLayer ? sum(x, args.cols) / count : 0.0f;
    const float scale = 1.0f / sqrtf(sum_of_squares(x, args.cols, mean) / count + args.eps);
    const __m256 center = _mm256_set1_ps(mean), factor = _mm256_set1_ps(scale);
    int64_t c = 0;
    for (; c + kLanes <= args.cols; c += kLanes) {
      const __m256 unit = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + c), center), factor);
      const __m256 weight = _mm256_add_ps(_mm256_loadu_ps(args.weight + c), offset);
      const __m256 bias =
          args.bias != nullptr ? _mm256_loadu_ps(args.bias + c) : _mm256_setzero_ps();
      _mm256_storeu_ps(y + c, _mm256_fmadd_ps(unit, weight, bias));
    }
    for (; c < args.cols; ++c) {
      const float bias = args.bias != nullptr ? args.bias[c] : 0.0f;
      y[c] = (x[c] - mean) * scale * (args.weight[c] + args.weight_offset) + bias;
    }
  }
}

}  // namespace tessera::norm
