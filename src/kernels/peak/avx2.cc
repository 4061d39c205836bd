#include <immintrin.h>

#include "kernels/peak/chains.h"

namespace tessera::peak {
namespace {

struct Vectors {
  static constexpr int kChains = 12;  // within 16 registers
  static constexpr int kProducts = 8;
  using Value = __m256;
  using Sum = __m256;
  static Value value(float x) { return _mm256_set1_ps(x); }
  static Sum zero() { return _mm256_setzero_ps(); }
  static Sum multiply(Value value, Sum sum) { return _mm256_fmadd_ps(value, value, sum); }
  static double total(Sum sum) {
    float lanes[8];
    _mm256_storeu_ps(lanes, sum);
    double total = 0;
    for (const float lane : lanes) total += static_cast<double>(lane);
    return total;
  }
};

}  // namespace

void avx2(const Args& args, Exec exec) noexcept { sum_products<Vectors>(args, exec); }

}  // namespace tessera::peak
