#include <immintrin.h>

#include "kernels/peak/peak.h"

namespace tessera::peak {
namespace {

// Every loop over them is unrolled whole, or they would live in memory.
constexpr int kChains = 24;  // more than the latency of both multipliers
constexpr int64_t kRepeats = kProductsPerStep / (kChains * 64);

}  // namespace

void avx512_vnni(const Args& args, Exec exec) noexcept {
  const __m512i value = _mm512_set1_epi8(static_cast<char>(args.value));
  __m512i chains[kChains];
#pragma GCC unroll 24
  for (auto& chain : chains) chain = _mm512_setzero_si512();
  for (int64_t left = (exec.end - exec.begin) * kRepeats; left > 0; --left) {
#pragma GCC unroll 24
    for (auto& chain : chains) {
      chain = _mm512_dpbusd_epi32(chain, value, value);
      asm volatile("" : "+v"(chain));  // or equal chains may be computed once
    }
  }
  double sum = 0;
#pragma GCC unroll 24
  for (const __m512i chain : chains) {
    int32_t lanes[16];
    _mm512_storeu_si512(lanes, chain);
    for (const int32_t lane : lanes) sum += static_cast<double>(lane);
  }
  *args.sum = sum;
}

}  // namespace tessera::peak
