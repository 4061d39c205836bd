#include <immintrin.h>

#include "kernels/attention_product/attention_product.h"
#include "kernels/vector_math_avx2.h"

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

// What b holds, and how 8 of it become floats. Behind the last column of an edge stand bytes of the
// same row of b or the next, or nothing: narrow numbers, which have no masked load, are taken one
// by one.
struct F32 {
  using Number = float;
  static inline __m256 read(const float* p) { return _mm256_loadu_ps(p); }
  static inline __m256 read(const float* p, __m256i mask, int) {
    return _mm256_maskload_ps(p, mask);
  }
};

struct BF16 {
  using Number = uint16_t;
  static inline __m256 read(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static inline __m256 read(const uint16_t* p, __m256i, int count) {
    uint16_t copy[kLanes] = {};
    for (int i = 0; i < count; ++i) copy[i] = p[i];
    return read(copy);
  }
};

struct Int8 {
  using Number = int8_t;
  static inline __m256 read(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
  }
  static inline __m256 read(const int8_t* p, __m256i, int count) {
    int8_t copy[kLanes] = {};
    for (int i = 0; i < count; ++i) copy[i] = p[i];
    return read(copy);
  }
};

inline void fetch(const Args& args, int64_t k) {
  const char* next = (const char*)args.next + k * args.next_bytes;
  for (int64_t i = 0; i < args.next_bytes; i += 64) _mm_prefetch(next + i, _MM_HINT_T0);
}

// Where the scales of b are applied: to a as it is broadcast, or to the sums.
enum class Scale { kNone, kRows, kColumns };

template <typename B, Scale kScale>
struct Panels {
  using Type = B;
  static constexpr Scale kScales = kScale;
};

template <typename B, int kRows, int kVectors, Edge kEdge>
void tile(const Args& args, int64_t first_row, int64_t row, int64_t col, __m256i mask) {
  constexpr int kLast = kVectors - 1;
  const float* a = args.a + row * args.a_stride;
  const auto* b = (const typename B::Type::Number*)args.b + col;
  const int last_lanes = (int)(args.cols - col - kLast * kLanes);
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
  const bool fetches = args.next != nullptr && row == first_row && col == 0;
  for (int64_t k = 0; k < args.depth; ++k, b += args.b_stride) {
    if (fetches) fetch(args, k);
    __m256 panel[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const auto* p = b + v * kLanes;
      panel[v] = v == kLast && kEdge == Edge::kMasked ? B::Type::read(p, mask, last_lanes)
                                                      : B::Type::read(p);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      __m256 value = _mm256_set1_ps(a[r * args.a_stride + k]);
      if (B::kScales == Scale::kRows)
        value = _mm256_mul_ps(value, _mm256_set1_ps(args.b_row_scale[k]));
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[r][v] = _mm256_fmadd_ps(value, panel[v], sum[r][v]);
    }
  }
  if (B::kScales == Scale::kColumns) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const float* p = args.b_col_scale + col + v * kLanes;
      const __m256 scale = v == kLast ? load<kEdge>(p, mask) : _mm256_loadu_ps(p);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) sum[r][v] = _mm256_mul_ps(sum[r][v], scale);
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

using Tile = void (*)(const Args&, int64_t, int64_t, int64_t, __m256i);

template <typename B, int kVectors, Edge kEdge>
void column(const Args& args, Exec exec, int64_t col, __m256i mask) {
  static constexpr Tile kTiles[kTileRows + 1] = {
      nullptr,
      tile<B, 1, kVectors, kEdge>,
      tile<B, 2, kVectors, kEdge>,
      tile<B, 3, kVectors, kEdge>,
      tile<B, 4, kVectors, kEdge>,
      tile<B, 5, kVectors, kEdge>,
      tile<B, 6, kVectors, kEdge>,
  };
  int64_t row = exec.begin;
  for (; row + kTileRows <= exec.end; row += kTileRows)
    kTiles[kTileRows](args, exec.begin, row, col, mask);
  if (row < exec.end) kTiles[exec.end - row](args, exec.begin, row, col, mask);
}

using Column = void (*)(const Args&, Exec, int64_t, __m256i);

template <typename B>
constexpr Column kColumns[2][kTileVectors + 1] = {
    {nullptr, column<B, 1, Edge::kFull>, column<B, 2, Edge::kFull>},
    {nullptr, column<B, 1, Edge::kMasked>, column<B, 2, Edge::kMasked>},
};

template <typename B>
void product(const Args& args, Exec exec) {
  for (int64_t col = 0; col < args.cols; col += kTileVectors * kLanes) {
    const int64_t cols = args.cols - col;
    const int64_t vectors = cols > kLanes ? kTileVectors : 1;
    const int64_t left = cols - (vectors - 1) * kLanes;
    const bool masked = left < kLanes;
    kColumns<B>[masked ? 1 : 0][vectors](args, exec, col, tail_mask(left));
  }
}

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  if (args.b_dtype == DType::kF32) return product<Panels<F32, Scale::kNone>>(args, exec);
  if (args.b_dtype == DType::kBF16) return product<Panels<BF16, Scale::kNone>>(args, exec);
  if (args.b_row_scale != nullptr) return product<Panels<Int8, Scale::kRows>>(args, exec);
  product<Panels<Int8, Scale::kColumns>>(args, exec);
}

}  // namespace tessera::attention_product
