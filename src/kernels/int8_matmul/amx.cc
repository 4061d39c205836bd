#include <immintrin.h>

#include "kernels/int8_matmul/finish_avx512.h"
#include "kernels/matmul/tiles_amx.h"

namespace tessera::int8_matmul {
namespace {

struct Amx : Epilogue {
  static void multiply_4_6_into_0() { _tile_dpbusd(0, 4, 6); }
  static void multiply_4_7_into_1() { _tile_dpbusd(1, 4, 7); }
  static void multiply_5_6_into_2() { _tile_dpbusd(2, 5, 6); }
  static void multiply_5_7_into_3() { _tile_dpbusd(3, 5, 7); }
};

// Rows up to which a product waits for memory, which vectors read faster: one to four rows times
// 256 MB take 17.5 ms by them and 22.3 by tiles. From 8 rows on, in the caches, tiles are twice as
// fast.
constexpr int64_t kVectorRows = 4;

}  // namespace

void amx(const Args& args, Exec exec) noexcept {
  if (args.rows <= kVectorRows) return avx512_vnni(args, exec);
  matmul::tiled_product<Amx>(in_fours(args), exec);
}

}  // namespace tessera::int8_matmul
