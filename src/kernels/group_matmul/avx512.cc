#include <immintrin.h>

#include "kernels/group_matmul/blocked.h"
#include "kernels/group_matmul/group_matmul.h"
#include "kernels/group_matmul/vectors_avx512.h"

namespace tessera::group_matmul {
namespace {

struct Avx512 : Vectors512 {
  static constexpr int kChains = 1;

  template <int kBits>
  static inline Sums dot(Sums sums, Int weights, Int x) {
    static_assert(kBits == 16);
    sums += Sums(_mm512_madd_epi16(weights, x));
    // Else GCC takes all sums of a step last, and has no registers for so many products.
    __asm__("" : "+v"(sums));
    return sums;
  }
};

}  // namespace

void avx512(const Args& args, Exec exec) noexcept { product<Avx512, RowForm::k16>(args, exec); }

}  // namespace tessera::group_matmul
