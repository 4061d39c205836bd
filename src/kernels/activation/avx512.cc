#include <immintrin.h>

#include "kernels/activation/activation.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::activation {
namespace {

constexpr int64_t kLanes = 16;

inline __m512 same(__m512 x) { return x; }

template <__m512 (*function)(__m512)>
void rows_of(const Args& args, Exec exec) {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const float* x = args.x + r * args.x_stride;
    const float* up = args.up != nullptr ? args.up + r * args.up_stride : nullptr;
    float* y = args.y + r * args.y_stride;
    for (int64_t c = 0; c < args.cols; c += kLanes) {
      const int64_t left = args.cols - c;
      const __mmask16 mask = left >= kLanes ? __mmask16(0xffff) : __mmask16((1u << left) - 1);
      __m512 value = function(_mm512_maskz_loadu_ps(mask, x + c));
      if (up != nullptr) value = _mm512_mul_ps(value, _mm512_maskz_loadu_ps(mask, up + c));
      _mm512_mask_storeu_ps(y + c, mask, value);
    }
  }
}

}  // namespace

void avx512(const Args& args, Exec exec) noexcept {
  switch (args.function) {
    case Activation::kNone:
      return rows_of<same>(args, exec);
    case Activation::kRelu:
      return rows_of<vector_relu>(args, exec);
    case Activation::kGeluErf:
      return rows_of<vector_gelu_erf>(args, exec);
    case Activation::kGeluTanh:
      return rows_of<vector_gelu_tanh>(args, exec);
    case Activation::kSilu:
      return rows_of<vector_silu>(args, exec);
    case Activation::kTanh:
      return rows_of<vector_tanh>(args, exec);
  }
}

}  // namespace tessera::activation
