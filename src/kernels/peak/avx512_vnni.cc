#include <immintrin.h>

#include "kernels/peak/chains.h"

namespace tessera::peak {
namespace {

struct Vectors {
  static constexpr int kChains = 24;
  static constexpr int kProducts = 64;
  using Value = __m512i;
  using Sum = __m512i;
  static Value value(float x) { return _mm512_set1_epi8(static_cast<char>(x)); }
  static Sum zero() { return _mm512_setzero_si512(); }
  static Sum multiply(Value value, Sum sum) { return _mm512_dpbusd_epi32(sum, value, value); }
  static double total(Sum sum) {
    int32_t lanes[16];
    _mm512_storeu_si512(lanes, sum);
    double total = 0;
    for (const int32_t lane : lanes) total += static_cast<double>(lane);
    return total;
  }
};

}  // namespace

void avx512_vnni(const Args& args, Exec exec) noexcept { sum_products<Vectors>(args, exec); }

}  // namespace tessera::peak
