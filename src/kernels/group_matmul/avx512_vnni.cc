#include <immintrin.h>

#include "kernels/group_matmul/blocked.h"
#include "kernels/group_matmul/group_matmul.h"
#include "kernels/group_matmul/vectors_avx512.h"

namespace tessera::group_matmul {
namespace {

struct Avx512Vnni : Vectors512 {
  static constexpr int kChains = 8;

  template <int kBits>
  static inline Sums dot(Sums sums, Int weights, Int x) {
    if constexpr (kBits == 16) return Sums(_mm512_dpwssd_epi32(__m512i(sums), weights, x));
    return Sums(_mm512_dpbusd_epi32(__m512i(sums), weights, x));
  }
};

}  // namespace

void avx512_vnni(const Args& args, Exec exec) noexcept {
  switch (args.x.form) {
    case RowForm::k8:
      return product<Avx512Vnni, RowForm::k8>(args, exec);
    case RowForm::k16:
      return product<Avx512Vnni, RowForm::k16>(args, exec);
    case RowForm::k16Split:
      return product<Avx512Vnni, RowForm::k16Split>(args, exec);
  }
}

}  // namespace tessera::group_matmul
