#include <immintrin.h>

#include "kernels/peak/chains.h"

namespace tessera::peak {
namespace {

struct Vectors {
  static constexpr int kChains = 24;
  static constexpr int kProducts = 16;
  using Value = __m512;
  using Sum = __m512;
  static Value value(float x) { return _mm512_set1_ps(x); }
  static Sum zero() { return _mm512_setzero_ps(); }
  static Sum multiply(Value value, Sum sum) { return _mm512_fmadd_ps(value, value, sum); }
  static double total(Sum sum) { return static_cast<double>(_mm512_reduce_add_ps(sum)); }
};

}  // namespace

void avx512(const Args& args, Exec exec) noexcept { sum_products<Vectors>(args, exec); }

}  // namespace tessera::peak
