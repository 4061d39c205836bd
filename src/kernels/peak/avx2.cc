#include <immintrin.h>

#include "kernels/peak/peak.h"

namespace tessera::peak {
namespace {

// Every loop over them is unrolled whole, or they would live in memory.
constexpr int kChains = 12;  // more than the latency of both multipliers, within 16 registers
constexpr int64_t kRepeats = kProductsPerStep / (kChains * 8);

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  const __m256 value = _mm256_set1_ps(args.value);
  __m256 chains[kChains];
#pragma GCC unroll 24
  for (auto& chain : chains) chain = _mm256_setzero_ps();
  for (int64_t left = (exec.end - exec.begin) * kRepeats; left > 0; --left) {
#pragma GCC unroll 24
    for (auto& chain : chains) {
      chain = _mm256_fmadd_ps(value, value, chain);
      asm volatile("" : "+x"(chain));  // or equal chains may be computed once
    }
  }
  double sum = 0;
#pragma GCC unroll 24
  for (const __m256 chain : chains) {
    float lanes[8];
    _mm256_storeu_ps(lanes, chain);
    for (const float lane : lanes) sum += static_cast<double>(lane);
  }
  *args.sum = sum;
}

}  // namespace tessera::peak
