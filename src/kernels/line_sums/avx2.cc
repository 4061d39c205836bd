#include <immintrin.h>

#include "kernels/line_sums/line_sums.h"
#include "kernels/line_sums/places.h"

namespace tessera::line_sums {
namespace {

constexpr int kLanes = 8;

// Factors [first, first + 8) times lanes [lane, lane + 8) of the fixed rows, which stay in 8
// registers.
void add_quarter(const Args& args, Exec exec, int first, int lane) {
  __m256 fixed[kLanes];
#pragma GCC unroll 8
  for (int j = 0; j < kLanes; ++j) {
    fixed[j] = _mm256_loadu_ps(args.fixed + (first + j) * args.fixed_stride + lane);
  }
  for (int64_t i = exec.begin; i < exec.end; ++i) {
    const float* line = args.lines + place(args.line_of, i) + first;
    float* target = args.sums + place(args.sum_of, i) + lane;
    __m256 even = _mm256_loadu_ps(target);
    __m256 odd = _mm256_mul_ps(_mm256_broadcast_ss(line + 1), fixed[1]);
    even = _mm256_fmadd_ps(_mm256_broadcast_ss(line), fixed[0], even);
#pragma GCC unroll 4
    for (int j = 2; j < kLanes; j += 2) {
      even = _mm256_fmadd_ps(_mm256_broadcast_ss(line + j), fixed[j], even);
      odd = _mm256_fmadd_ps(_mm256_broadcast_ss(line + j + 1), fixed[j + 1], odd);
    }
    _mm256_storeu_ps(target, _mm256_add_ps(even, odd));
  }
}

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  for (int first = 0; first < kLine; first += kLanes) {
    for (int lane = 0; lane < kLine; lane += kLanes) add_quarter(args, exec, first, lane);
  }
}

}  // namespace tessera::line_sums
