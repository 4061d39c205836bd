#include <immintrin.h>

#include "kernels/rotary/rotary.h"
#include "kernels/vector_math_avx2.h"

namespace tessera::rotary {
namespace {

constexpr int64_t kLanes = 8;

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  const int64_t half = args.rotated / 2;
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const float* cosines = args.cosines + args.positions[r] * half;
    const float* sines = args.sines + args.positions[r] * half;
    for (int64_t j = 0; j < half; j += kLanes) {
      const __m256i mask = tail_mask(half - j);
      const __m256 c = _mm256_maskload_ps(cosines + j, mask);
      const __m256 s = _mm256_maskload_ps(sines + j, mask);
      float* x = args.x + r * args.x_stride + j;
      for (int64_t h = 0; h < args.heads; ++h, x += args.head_size) {
        const __m256 a = _mm256_maskload_ps(x, mask);
        const __m256 b = _mm256_maskload_ps(x + half, mask);
        _mm256_maskstore_ps(x, mask, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_maskstore_ps(x + half, mask, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
      }
    }
  }
}

}  // namespace tessera::rotary
