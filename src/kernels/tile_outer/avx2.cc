#include <immintrin.h>

#include "kernels/tile_outer/blocked.h"
#include "kernels/tile_outer/tile_outer.h"
#include "kernels/vector_math_avx2.h"

namespace tessera::tile_outer {
namespace {

constexpr int kHalves = 2;
// Outputs at a time: 4 x 2 sums, two vectors of inputs and a broadcast in 16 registers, and as many
// chains as hide the latency of the multiply-add.
constexpr int kTogether = 4;

// Outputs [first, first + 4) of the tile.
template <int kOutputs>
void multiply_some(const Args& args, const Tile& tile, int64_t first) {
  const __m256i masks[kHalves] = {tail_mask(tile.halves[0].count), tail_mask(tile.halves[1].count)};
  __m256 sums[kTogether][kHalves];
#pragma GCC unroll 4
  for (int n = 0; n < kTogether; ++n) sums[n][0] = sums[n][1] = _mm256_setzero_ps();
  const float* x = tile.x;
  const float* dy = tile.dy + first;
  for (int64_t m = 0; m < tile.rows; ++m, x += args.x_stride, dy += kOutputs) {
    const __m256 low = _mm256_maskload_ps(x + tile.halves[0].input, masks[0]);
    const __m256 high = _mm256_maskload_ps(x + tile.halves[1].input, masks[1]);
#pragma GCC unroll 4
    for (int n = 0; n < kTogether; ++n) {
      const __m256 value = _mm256_broadcast_ss(dy + n);
      sums[n][0] = _mm256_fmadd_ps(value, low, sums[n][0]);
      sums[n][1] = _mm256_fmadd_ps(value, high, sums[n][1]);
    }
  }
#pragma GCC unroll 4
  for (int n = 0; n < kTogether; ++n) {
    if (first + n >= tile.outputs) break;
    for (int h = 0; h < kHalves; ++h) {
      float* target = tile.dw + (first + n) * args.dw_stride + tile.halves[h].input;
      __m256 sum = sums[n][h];
      if (tile.sums == Tile::Sums::kAdd) {
        sum = _mm256_add_ps(sum, _mm256_maskload_ps(target, masks[h]));
      }
      _mm256_maskstore_ps(target, masks[h], sum);
    }
  }
}

struct Avx2 {
  template <int kOutputs>
  static void copy(const float* source, float* target, int64_t count) {
    for (int64_t n = 0; n < kOutputs; n += 8) {
      _mm256_store_ps(target + n, _mm256_maskload_ps(source + n, tail_mask(count - n)));
    }
  }

  template <int kOutputs>
  static void multiply(const Args& args, const Tile& tile) {
    for (int64_t n = 0; n < kOutputs; n += kTogether) multiply_some<kOutputs>(args, tile, n);
  }
};

}  // namespace

void avx2(const Args& args, Exec exec) noexcept { product<Avx2>(args, exec); }

}  // namespace tessera::tile_outer
