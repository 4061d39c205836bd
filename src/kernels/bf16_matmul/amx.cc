#include <immintrin.h>

#include "kernels/bf16_matmul/as_floats.h"
#include "kernels/matmul/finish_avx512.h"
#include "kernels/matmul/tiles_amx.h"

namespace tessera::bf16_matmul {
namespace {

struct Amx : matmul::Epilogue {
  static void multiply_4_6_into_0() { _tile_dpbf16ps(0, 4, 6); }
  static void multiply_4_7_into_1() { _tile_dpbf16ps(1, 4, 7); }
  static void multiply_5_6_into_2() { _tile_dpbf16ps(2, 5, 6); }
  static void multiply_5_7_into_3() { _tile_dpbf16ps(3, 5, 7); }
};

}  // namespace

void amx(const Args& args, Exec exec) noexcept {
  matmul::tiled_product<Amx>(as_floats(args), exec);
}

}  // namespace tessera::bf16_matmul
