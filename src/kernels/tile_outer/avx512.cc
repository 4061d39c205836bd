#include <immintrin.h>

#include "kernels/tile_outer/blocked.h"
#include "kernels/tile_outer/tile_outer.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::tile_outer {
namespace {

// Two halves of a vector that lie apart.
struct Apart {
  __mmask8 low, high;
  int64_t low_at, high_at;

  explicit Apart(const Tile& tile)
      : low(static_cast<__mmask8>(tail_mask(tile.halves[0].count))),
        high(static_cast<__mmask8>(tail_mask(tile.halves[1].count))),
        low_at(tile.halves[0].input),
        high_at(tile.halves[1].input) {}
  __m512 load(const float* row) const {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_maskz_loadu_ps(low, row + low_at)),
                              _mm256_maskz_loadu_ps(high, row + high_at), 1);
  }
  void store(float* row, __m512 values) const {
    _mm256_mask_storeu_ps(row + low_at, low, _mm512_castps512_ps256(values));
    _mm256_mask_storeu_ps(row + high_at, high, _mm512_extractf32x8_ps(values, 1));
  }
};

// Halves that lie side by side.
struct Whole {
  __mmask16 mask;
  int64_t at;

  explicit Whole(const Tile& tile)
      : mask(tail_mask(tile.halves[0].count + tile.halves[1].count)), at(tile.halves[0].input) {}
  __m512 load(const float* row) const { return _mm512_maskz_loadu_ps(mask, row + at); }
  void store(float* row, __m512 values) const { _mm512_mask_storeu_ps(row + at, mask, values); }
};

template <int kOutputs, typename Inputs>
void multiply_tile(const Args& args, const Tile& tile) {
  const Inputs inputs(tile);
  __m512 sums[kOutputs];
#pragma GCC unroll 16
  for (int n = 0; n < kOutputs; ++n) sums[n] = _mm512_setzero_ps();
  const float* x = tile.x;
  const float* dy = tile.dy;
  for (int64_t m = 0; m < tile.rows; ++m, x += args.x_stride, dy += kOutputs) {
    const __m512 values = inputs.load(x);
#pragma GCC unroll 16
    for (int n = 0; n < kOutputs; ++n) {
      sums[n] = _mm512_fmadd_ps(_mm512_set1_ps(dy[n]), values, sums[n]);
    }
  }
#pragma GCC unroll 16
  for (int n = 0; n < kOutputs; ++n) {
    if (n >= tile.outputs) break;
    float* row = tile.dw + n * args.dw_stride;
    const __m512 before = tile.sums == Tile::Sums::kAdd ? inputs.load(row) : _mm512_setzero_ps();
    inputs.store(row, _mm512_add_ps(before, sums[n]));
  }
}

struct Avx512 {
  template <int kOutputs>
  static void copy(const float* source, float* target, int64_t count) {
    if constexpr (kOutputs == 16) {
      _mm512_store_ps(target, _mm512_maskz_loadu_ps(tail_mask(count), source));
    } else {
      const auto mask = static_cast<__mmask8>(tail_mask(count));
      _mm256_store_ps(target, _mm256_maskz_loadu_ps(mask, source));
    }
  }

  template <int kOutputs>
  static void multiply(const Args& args, const Tile& tile) {
    if (args.shape.inputs == kLane) {
      multiply_tile<kOutputs, Whole>(args, tile);
    } else {
      multiply_tile<kOutputs, Apart>(args, tile);
    }
  }
};

}  // namespace

void avx512(const Args& args, Exec exec) noexcept { product<Avx512>(args, exec); }

}  // namespace tessera::tile_outer
