#include <immintrin.h>

#include "kernels/attention_product/attention_product.h"

namespace tessera::attention_product {
namespace {

constexpr int64_t kLanes = 16;
// 6 x 4 sums, 4 vectors of b and a broadcast fill 29 of the 32 registers; per step of k 10 loads
// feed 24 multiply-adds, so that the two multipliers and not the two load ports are the limit.
constexpr int kTileRows = 6;
constexpr int kTileVectors = 4;

enum class Edge { kFull, kMasked };  // whether the last vector of a tile is cut by a mask

template <Edge kEdge>
inline __m512 load(const float* p, __mmask16 mask) {
  return kEdge == Edge::kFull ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(mask, p);
}

template <Edge kEdge>
inline void store(float* p, __m512 v, __mmask16 mask) {
  if (kEdge == Edge::kFull) {
    _mm512_storeu_ps(p, v);
  } else {
    _mm512_mask_storeu_ps(p, mask, v);
  }
}

template <int kRows, int kVectors, Edge kEdge>
void tile(const Args& args, int64_t row, int64_t col, __mmask16 mask) {
  constexpr int kLast = kVectors - 1;
  const float* a = args.a + row * args.a_stride;
  const float* b = args.b + col;
  float* c = args.c + row * args.c_stride + col;
  __m512 sum[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = _mm512_setzero_ps();
  }
  if (args.start != Start::kZero) {
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const __m512 factor =
          _mm512_set1_ps(args.start == Start::kScale ? args.factor[row + r] : 1.0f);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const float* p = c + r * args.c_stride + v * kLanes;
        sum[r][v] = _mm512_mul_ps(v == kLast ? load<kEdge>(p, mask) : _mm512_loadu_ps(p), factor);
      }
    }
  }
  for (int64_t k = 0; k < args.depth; ++k, b += args.b_stride) {
    __m512 panel[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const float* p = b + v * kLanes;
      panel[v] = v == kLast ? load<kEdge>(p, mask) : _mm512_loadu_ps(p);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const __m512 value = _mm512_set1_ps(a[r * args.a_stride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = _mm512_fmadd_ps(value, panel[v], sum[r][v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    float* p = c + r * args.c_stride;
#pragma GCC unroll 4
    for (int v = 0; v < kLast; ++v) _mm512_storeu_ps(p + v * kLanes, sum[r][v]);
    store<kEdge>(p + kLast * kLanes, sum[r][kLast], mask);
  }
}

using Tile = void (*)(const Args&, int64_t, int64_t, __mmask16);

template <int kVectors, Edge kEdge>
void column(const Args& args, Exec exec, int64_t col, __mmask16 mask) {
  static constexpr Tile kTiles[kTileRows + 1] = {
      nullptr,
      tile<1, kVectors, kEdge>,
      tile<2, kVectors, kEdge>,
      tile<3, kVectors, kEdge>,
      tile<4, kVectors, kEdge>,
      tile<5, kVectors, kEdge>,
      tile<6, kVectors, kEdge>,
  };
  int64_t row = exec.begin;
  for (; row + kTileRows <= exec.end; row += kTileRows) kTiles[kTileRows](args, row, col, mask);
  if (row < exec.end) kTiles[exec.end - row](args, row, col, mask);
}

using Column = void (*)(const Args&, Exec, int64_t, __mmask16);

constexpr Column kColumns[2][kTileVectors + 1] = {
    {nullptr, column<1, Edge::kFull>, column<2, Edge::kFull>, column<3, Edge::kFull>,
     column<4, Edge::kFull>},
    {nullptr, column<1, Edge::kMasked>, column<2, Edge::kMasked>, column<3, Edge::kMasked>,
     column<4, Edge::kMasked>},
};

}  // namespace

void avx512(const Args& args, Exec exec) noexcept {
  int64_t vectors = (args.cols + kLanes - 1) / kLanes;
  int64_t tiles = (vectors + kTileVectors - 1) / kTileVectors;
  for (int64_t col = 0; tiles > 0; --tiles) {
    // Even shares: 13 vectors go as 4 3 3 3 rather than 4 4 4 1, whose last tile would wait on its
    // own sums.
    const int64_t share = (vectors + tiles - 1) / tiles;
    const int64_t left = args.cols - col - (share - 1) * kLanes;
    const bool masked = left < kLanes;
    const __mmask16 mask = masked ? __mmask16((1u << left) - 1) : __mmask16(0xffff);
    kColumns[masked ? 1 : 0][share](args, exec, col, mask);
    col += share * kLanes;
    vectors -= share;
  }
}

}  // namespace tessera::attention_product
