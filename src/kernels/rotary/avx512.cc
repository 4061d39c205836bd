#include <immintrin.h>

#include "kernels/rotary/rotary.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::rotary {
namespace {

constexpr int64_t kLanes = 16;

}  // namespace

void avx512(const Args& args, Exec exec) noexcept {
  const int64_t half = args.rotated / 2;
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const float* cosines = args.cosines + args.positions[r] * half;
    const float* sines = args.sines + args.positions[r] * half;
    for (int64_t j = 0; j < half; j += kLanes) {
      const __mmask16 mask = tail_mask(half - j);
      const __m512 c = _mm512_maskz_loadu_ps(mask, cosines + j);
      const __m512 s = _mm512_maskz_loadu_ps(mask, sines + j);
      float* x = args.x + r * args.x_stride + j;
      for (int64_t h = 0; h < args.heads; ++h, x += args.head_size) {
        const __m512 a = _mm512_maskz_loadu_ps(mask, x);
        const __m512 b = _mm512_maskz_loadu_ps(mask, x + half);
        _mm512_mask_storeu_ps(x, mask, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(x + half, mask, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
      }
    }
  }
}

}  // namespace tessera::rotary
