#include <immintrin.h>

#include "kernels/activation/activation.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::activation {
namespace {

constexpr int64_t kLanes = 16;

template <__m512 (*function)(__m512)>
void rows_of(const Args& args, Exec exec) {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const float* x = args.x + r * args.x_stride;
    const float* up = args.up != nullptr ? args.up + r * args.up_stride : nullptr;
    float* y = args.y + r * args.y_stride;
    for (int64_t c = 0; c < args.cols; c += kLanes) {
      const __mmask16 mask = tail_mask(args.cols - c);
      __m512 value = function(_mm512_maskz_loadu_ps(mask, x + c));
      if (up != nullptr) value = _mm512_mul_ps(value, _mm512_maskz_loadu_ps(mask, up + c));
      _mm512_mask_storeu_ps(y + c, mask, value);
    }
  }
}

}  // namespace

void avx512(const Args& args, Exec exec) noexcept {
  with_activation(args.function,
                  [&]<__m512 (*function)(__m512)>() { rows_of<function>(args, exec); });
}

}  // namespace tessera::activation
