#include <immintrin.h>

#include "kernels/peak/peak.h"

namespace tessera::peak {
namespace {

// Every loop over them is unrolled whole, or they would live in memory.
constexpr int kChains = 24;  // more than the latency of both multipliers
constexpr int64_t kRepeats = kProductsPerStep / (kChains * 32);

}  // namespace

void avx512_bf16(const Args& args, Exec exec) noexcept {
  const __m512bh value =
      _mm512_cvtne2ps_pbh(_mm512_set1_ps(args.value), _mm512_set1_ps(args.value));
  __m512 chains[kChains];
#pragma GCC unroll 24
  for (auto& chain : chains) chain = _mm512_setzero_ps();
  for (int64_t left = (exec.end - exec.begin) * kRepeats; left > 0; --left) {
#pragma GCC unroll 24
    for (auto& chain : chains) {
      chain = _mm512_dpbf16_ps(chain, value, value);
      asm volatile("" : "+v"(chain));  // or equal chains may be computed once
    }
  }
  double sum = 0;
#pragma GCC unroll 24
  for (const __m512 chain : chains) sum += static_cast<double>(_mm512_reduce_add_ps(chain));
  *args.sum = sum;
}

}  // namespace tessera::peak
