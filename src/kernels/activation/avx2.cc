#include <immintrin.h>

#include "kernels/activation/activation.h"
#include "kernels/vector_math_avx2.h"

namespace tessera::activation {
namespace {

constexpr int64_t kLanes = 8;

inline __m256 same(__m256 x) { return x; }

inline __m256i tail_mask(int64_t left) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(left > kLanes ? int(kLanes) : int(left)), lanes);
}

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
