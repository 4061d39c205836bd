#include <immintrin.h>

#include "kernels/rows_to_bf16/rows_to_bf16.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::rows_to_bf16 {
namespace {

constexpr int64_t kLanes = 16;

inline __m512 load(const float* x, int64_t left) {
  return _mm512_maskz_loadu_ps(left > 0 ? tail_mask(left) : __mmask16(0), x);
}

}  // namespace

void avx512_bf16(const Args& args, Exec exec) noexcept {
  for (int64_t m = exec.begin; m < exec.end; ++m) {
    const float* x = args.x + m * args.x_stride;
    uint16_t* y = args.y + m * args.y_stride;
    int64_t k = 0;
    for (; k + kMultiple <= args.inputs; k += kMultiple) {
      const __m512bh both =
          _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + k + kLanes), _mm512_loadu_ps(x + k));
      _mm512_storeu_si512(y + k, (__m512i)both);
    }
    if (k < args.inputs) {
      const __m512bh both = _mm512_cvtne2ps_pbh(load(x + k + kLanes, args.inputs - k - kLanes),
                                                load(x + k, args.inputs - k));
      _mm512_storeu_si512(y + k, (__m512i)both);
    }
  }
}

}  // namespace tessera::rows_to_bf16
