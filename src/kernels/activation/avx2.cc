#include <immintrin.h>

#include "kernels/activation/activation.h"
#include "kernels/vector_math_avx2.h"

namespace tessera::activation {
namespace {

constexpr int64_t kLanes = 8;

template <__m256 (*function)(__m256)>
void rows_of(const Args& args, Exec exec) {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const float* x = args.x + r * args.x_stride;
    const float* up = args.up != nullptr ? args.up + r * args.up_stride : nullptr;
    float* y = args.y + r * args.y_stride;
    for (int64_t c = 0; c < args.cols; c += kLanes) {
      const __m256i mask = tail_mask(args.cols - c);
      __m256 value = function(_mm256_maskload_ps(x + c, mask));
      if (up != nullptr) value = _mm256_mul_ps(value, _mm256_maskload_ps(up + c, mask));
      _mm256_maskstore_ps(y + c, mask, value);
    }
  }
}

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  with_activation(args.function,
                  [&]<__m256 (*function)(__m256)>() { rows_of<function>(args, exec); });
}

}  // namespace tessera::activation
