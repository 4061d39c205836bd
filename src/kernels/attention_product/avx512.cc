#include <immintrin.h>

#include "kernels/attention_product/attention_product.h"
#include "kernels/vector_math_avx512.h"

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

// What b holds, and how 16 of it become floats.
struct F32 {
  using Number = float;
  static inline __m512 read(const float* p) { return _mm512_loadu_ps(p); }
  static inline __m512 read(const float* p, __mmask16 mask) {
    return _mm512_maskz_loadu_ps(mask, p);
  }
};

struct BF16 {
  using Number = uint16_t;
  static inline __m512 widened(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  static inline __m512 read(const uint16_t* p) {
    return widened(_mm256_loadu_si256((const __m256i*)p));
  }
  static inline __m512 read(const uint16_t* p, __mmask16 mask) {
    return widened(_mm256_maskz_loadu_epi16(mask, p));
  }
};

struct Int8 {
  using Number = int8_t;
  static inline __m512 widened(__m128i x) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x)); }
  static inline __m512 read(const int8_t* p) { return widened(_mm_loadu_si128((const __m128i*)p)); }
  static inline __m512 read(const int8_t* p, __mmask16 mask) {
    return widened(_mm_maskz_loadu_epi8(mask, p));
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
void tile(const Args& args, int64_t first_row, int64_t row, int64_t col, __mmask16 mask) {
  constexpr int kLast = kVectors - 1;
  const float* a = args.a + row * args.a_stride;
  const auto* b = (const typename B::Type::Number*)args.b + col;
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
  const bool fetches = args.next != nullptr && row == first_row && col == 0;
  for (int64_t k = 0; k < args.depth; ++k, b += args.b_stride) {
    if (fetches) fetch(args, k);
    __m512 panel[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const auto* p = b + v * kLanes;
      panel[v] = v == kLast && kEdge == Edge::kMasked ? B::Type::read(p, mask) : B::Type::read(p);
    }
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      __m512 value = _mm512_set1_ps(a[r * args.a_stride + k]);
      if (B::kScales == Scale::kRows)
        value = _mm512_mul_ps(value, _mm512_set1_ps(args.b_row_scale[k]));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = _mm512_fmadd_ps(value, panel[v], sum[r][v]);
    }
  }
  if (B::kScales == Scale::kColumns) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const float* p = args.b_col_scale + col + v * kLanes;
      const __m512 scale = v == kLast ? load<kEdge>(p, mask) : _mm512_loadu_ps(p);
#pragma GCC unroll 6
      for (int r = 0; r < kRows; ++r) sum[r][v] = _mm512_mul_ps(sum[r][v], scale);
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

using Tile = void (*)(const Args&, int64_t, int64_t, int64_t, __mmask16);

template <typename B, int kVectors, Edge kEdge>
void column(const Args& args, Exec exec, int64_t col, __mmask16 mask) {
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

using Column = void (*)(const Args&, Exec, int64_t, __mmask16);

template <typename B>
constexpr Column kColumns[2][kTileVectors + 1] = {
    {nullptr, column<B, 1, Edge::kFull>, column<B, 2, Edge::kFull>, column<B, 3, Edge::kFull>,
     column<B, 4, Edge::kFull>},
    {nullptr, column<B, 1, Edge::kMasked>, column<B, 2, Edge::kMasked>, column<B, 3, Edge::kMasked>,
     column<B, 4, Edge::kMasked>},
};

template <typename B>
void product(const Args& args, Exec exec) {
  int64_t vectors = (args.cols + kLanes - 1) / kLanes;
  int64_t tiles = (vectors + kTileVectors - 1) / kTileVectors;
  for (int64_t col = 0; tiles > 0; --tiles) {
    // Even shares: 13 vectors go as 4 3 3 3 rather than 4 4 4 1, whose last tile would wait on its
    // own sums.
    const int64_t share = (vectors + tiles - 1) / tiles;
    const int64_t left = args.cols - col - (share - 1) * kLanes;
    const bool masked = left < kLanes;
    kColumns<B>[masked ? 1 : 0][share](args, exec, col, tail_mask(left));
    col += share * kLanes;
    vectors -= share;
  }
}

}  // namespace

void avx512(const Args& args, Exec exec) noexcept {
  if (args.b_dtype == DType::kF32) return product<Panels<F32, Scale::kNone>>(args, exec);
  if (args.b_dtype == DType::kBF16) return product<Panels<BF16, Scale::kNone>>(args, exec);
  if (args.b_row_scale != nullptr) return product<Panels<Int8, Scale::kRows>>(args, exec);
  product<Panels<Int8, Scale::kColumns>>(args, exec);
}

}  // namespace tessera::attention_product
