#include <immintrin.h>

#include "kernels/line_sums/line_sums.h"
#include "kernels/line_sums/places.h"

namespace tessera::line_sums {

// The fixed rows stay in 16 registers. A line's products are two chains; those of the lines that
// follow hide their latency.
void avx512(const Args& args, Exec exec) noexcept {
  __m512 fixed[kLine];
#pragma GCC unroll 16
  for (int j = 0; j < kLine; ++j) fixed[j] = _mm512_loadu_ps(args.fixed + j * args.fixed_stride);
  for (int64_t i = exec.begin; i < exec.end; ++i) {
    const float* line = args.lines + place(args.line_of, i);
    float* target = args.sums + place(args.sum_of, i);
    __m512 even = _mm512_loadu_ps(target);
    __m512 odd = _mm512_mul_ps(_mm512_set1_ps(line[1]), fixed[1]);
    even = _mm512_fmadd_ps(_mm512_set1_ps(line[0]), fixed[0], even);
#pragma GCC unroll 8
    for (int j = 2; j < kLine; j += 2) {
      even = _mm512_fmadd_ps(_mm512_set1_ps(line[j]), fixed[j], even);
      odd = _mm512_fmadd_ps(_mm512_set1_ps(line[j + 1]), fixed[j + 1], odd);
    }
    _mm512_storeu_ps(target, _mm512_add_ps(even, odd));
  }
}

}  // namespace tessera::line_sums
