#include <immintrin.h>

#include "kernels/attention_product/attention_product.h"

namespace tessera::attention_product {
namespace {

constexpr int64_t kLanes = 8;
// 6 x 2 sums, 2 vectors of b and a broadcast fill 15 of the 16 registers.
constexpr int kTileRows = 6;
constexpr int kTileVectors = 2;

enum class Edge { kFull, kMasked };  // whether the last vector of a tile is cut by a mask

template <Edge kEdge>
inline __m256 load(const float* p, __m256i mask) {
  return kEdge == Edge::kFull ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, mask);
}

template <Edge kEdge>
inline void store(float* p, __m256 v, __m256i mask) {
  if (kEdge == Edge::kFull) {
    _mm256_storeu_ps(p, v);
  } else {
    _mm256_maskstore_ps(p, mask, v);
  }
}

template <int kRows, int kVectors, Edge kEdge>
void tile(const Args& args, int64_t row, int64_t col, __m256i mask) {
  constexpr int kLast = kVectors - 1;
  const float* a = args.a + row * args.a_stride;
  const float* b = args.b + col;
  float* c = args.c + row * args.c_stride + col;
  __m256 sum[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sum[r][v] = _mm256_setzero_ps();
  }
  if (args.start != Start::kZero) {
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const __m256 factor =
          _mm256_set1_ps(args.start == Start::kScale ? args.factor[row + r] : 1.0f);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const float* p = c + r * args.c_stride + v * kLanes;
        sum[r][v] = _mm256_mul_ps(v == kLast ? load<kEdge>(p, mask) : _mm256_loadu_ps(p), factor);
      }
    }
  }
  for (int64_t k = 0; k < args.depth; ++k, b += args.b_stride) {
    __m256 panel[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const float* p = b + v * kLanes;
      panel[v] = v == kLast ? load<kEdge>(p, mask) : _mm256_loadu_ps(p);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const __m256 value = _mm256_set1_ps(a[r * args.a_stride + k]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[r][v] = _mm256_fmadd_ps(value, panel[v], sum[r][v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    float* p = c + r * args.c_stride;
#pragma GCC unroll 2
    for (int v = 0; v < kLast; ++v) _mm256_storeu_ps(p + v * kLanes, sum[r][v]);
    store<kEdge>(p + kLast * kLanes, sum[r][kLast], mask);
  }
}

using Tile = void (*)(const Args&, int64_t, int64_t, __m256i);

template <int kVectors, Edge kEdge>
void column(const Args& args, Exec exec, int64_t col, __m256i mask) {
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

using Column = void (*)(const Args&, Exec, int64_t, __m256i);

constexpr Column kColumns[2][kTileVectors + 1] = {
    {nullptr, column<1, Edge::kFull>, column<2, Edge::kFull>},
    {nullptr, column<1, Edge::kMasked>, column<2, Edge::kMasked>},
};

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int64_t col = 0; col < args.cols; col += kTileVectors * kLanes) {
    const int64_t cols = args.cols - col;
    const int64_t vectors = cols > kLanes ? kTileVectors : 1;
    const int64_t left = cols - (vectors - 1) * kLanes;
    const bool masked = left < kLanes;
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(masked ? (int)left : 8), lane);
    kColumns[masked ? 1 : 0][vectors](args, exec, col, mask);
  }
}

}  // namespace tessera::attention_product
