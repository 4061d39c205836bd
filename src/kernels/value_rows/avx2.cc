#include <immintrin.h>
#include <math.h>

#include "kernels/value_rows/value_rows.h"

namespace tessera::value_rows {
namespace {

constexpr int64_t kLanes = 8;
constexpr int64_t kLine = 64;
// Rows lie apart, where the hardware fetches nothing ahead.
constexpr int32_t kAhead = 12;

// What a row holds. An element is a number, or a byte of two.
struct F32 {
  static constexpr int kPerElement = 1;
  static constexpr bool kHasScales = false;
  static inline int64_t row_bytes(int64_t cols) { return 4 * cols; }
  static inline __m256 read(const char* row, int64_t at, int) {
    return _mm256_loadu_ps((const float*)row + at);
  }
  static inline float one(const char* row, int64_t at, int) { return ((const float*)row)[at]; }
};

struct BF16 {
  static constexpr int kPerElement = 1;
  static constexpr bool kHasScales = false;
  static inline int64_t row_bytes(int64_t cols) { return 2 * cols; }
  static inline __m256 read(const char* row, int64_t at, int) {
    const __m128i x = _mm_loadu_si128((const __m128i*)((const uint16_t*)row + at));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  static inline float one(const char* row, int64_t at, int) {
    const uint32_t bits = uint32_t(((const uint16_t*)row)[at]) << 16;
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(int32_t(bits))));
  }
};

struct Int8 {
  static constexpr int kPerElement = 1;
  static constexpr bool kHasScales = true;
  static inline int64_t row_bytes(int64_t cols) { return cols; }
  static inline __m256 read(const char* row, int64_t at, int) {
    const __m128i x = _mm_loadl_epi64((const __m128i*)(row + at));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x));
  }
  static inline float one(const char* row, int64_t at, int) {
    return float(((const int8_t*)row)[at]);
  }
};

struct Int4 {
  static constexpr int kPerElement = 2;
  static constexpr bool kHasScales = true;
  static inline int64_t row_bytes(int64_t cols) { return (cols + 1) / 2; }
  static inline __m256 read(const char* row, int64_t at, int half) {
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(row + at)));
    const __m256i high = _mm256_slli_epi32(bytes, half == 0 ? 28 : 24);
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(high, 28));
  }
  static inline float one(const char* row, int64_t at, int half) {
    const int32_t byte = ((const uint8_t*)row)[at];
    const int32_t bits = half == 0 ? byte & 15 : byte >> 4;
    return float(bits < 8 ? bits : bits - 16);
  }
};

inline const char* page_of(const Args& args, int32_t place) {
  return (const char*)args.pages[place / kPageRows];
}

inline const char* row_of(const Args& args, int32_t place, int64_t row_bytes) {
  return page_of(args, place) + args.rows_at + place % kPageRows * row_bytes;
}

inline const float* scale_of(const Args& args, int32_t place) {
  return (const float*)(page_of(args, place) + args.scales_at) + place % kPageRows;
}

// Calls add(weight, row) for the rows of a query.
template <typename X, typename Add>
inline void for_each_row(const Args& args, int64_t query, Add add) {
  const int32_t* places = args.places + query * args.places_stride;
  const float* weights = args.weights + query * args.weights_stride;
  const int64_t row_bytes = X::row_bytes(args.cols);
  const int32_t count = args.counts[query];
  for (int32_t i = 0; i < count; ++i) {
    if (i + kAhead < count) {
      const char* ahead = row_of(args, places[i + kAhead], row_bytes);
      for (int64_t at = 0; at < row_bytes; at += kLine) _mm_prefetch(ahead + at, _MM_HINT_T0);
      if (X::kHasScales) _mm_prefetch((const char*)scale_of(args, places[i + kAhead]), _MM_HINT_T0);
    }
    float weight = weights[places[i]];
    if (weight == 0) continue;
    if (X::kHasScales) weight *= *scale_of(args, places[i]);
    add(weight, row_of(args, places[i], row_bytes));
  }
}

template <typename X, int kVectors>
void chunk(const Args& args, int64_t query, int64_t first) {
  __m256 sum[X::kPerElement][kVectors];
#pragma GCC unroll 2
  for (int half = 0; half < X::kPerElement; ++half) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[half][v] = _mm256_setzero_ps();
  }
  for_each_row<X>(args, query, [&](float weight, const char* row) {
    const __m256 by = _mm256_set1_ps(weight);
#pragma GCC unroll 2
    for (int half = 0; half < X::kPerElement; ++half) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const __m256 x = X::read(row, first + v * kLanes, half);
        sum[half][v] = _mm256_fmadd_ps(by, x, sum[half][v]);
      }
    }
  });
  float* y = args.y + query * args.y_stride + first;
#pragma GCC unroll 2
  for (int half = 0; half < X::kPerElement; ++half) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v)
      _mm256_storeu_ps(y + half * X::row_bytes(args.cols) + v * kLanes, sum[half][v]);
  }
}

// A single column.
template <typename X>
void column(const Args& args, int64_t query, int64_t element, int half) {
  float sum = 0;
  for_each_row<X>(args, query, [&](float weight, const char* row) {
    sum = fmaf(weight, X::one(row, element, half), sum);
  });
  args.y[query * args.y_stride + element + half * X::row_bytes(args.cols)] = sum;
}

template <typename X>
void sums(const Args& args, Exec exec) {
  constexpr int kVectors = 8 / X::kPerElement;
  const int64_t whole = args.cols / X::kPerElement;
  for (int64_t query = exec.begin; query < exec.end; ++query) {
    int64_t first = 0;
    for (; first + kVectors * kLanes <= whole; first += kVectors * kLanes)
      chunk<X, kVectors>(args, query, first);
    for (; first + kLanes <= whole; first += kLanes) chunk<X, 1>(args, query, first);
    for (; first < whole; ++first) {
      for (int half = 0; half < X::kPerElement; ++half) column<X>(args, query, first, half);
    }
    if (X::kPerElement * whole < args.cols) column<X>(args, query, whole, 0);
  }
}

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  switch (args.numbers) {
    case Numbers::kF32:
      return sums<F32>(args, exec);
    case Numbers::kBF16:
      return sums<BF16>(args, exec);
    case Numbers::kInt8:
      return sums<Int8>(args, exec);
    default:
      sums<Int4>(args, exec);
  }
}

}  // namespace tessera::value_rows
