#include <immintrin.h>

#include "kernels/value_rows/value_rows.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::value_rows {
namespace {

constexpr int64_t kLanes = 16;
constexpr int kVectors = 4;
constexpr int64_t kLine = 64;
// Rows lie apart, where the hardware fetches nothing ahead: so many are asked for before they are
// read, which hides the way to memory.
constexpr int32_t kAhead = 12;

// Vectors of a chunk of a row: where they are read, and where they go in the output.
struct F32 {
  static constexpr int64_t kChunk = kVectors * kLanes;
  static constexpr bool kHasScales = false;
  static inline int64_t row_bytes(int64_t cols) { return 4 * cols; }
  static inline int64_t output(int64_t first, int64_t, int v) { return first + v * kLanes; }
  static inline __m512 read(const char* row, int64_t first, int v, __mmask16 mask) {
    return _mm512_maskz_loadu_ps(mask, (const float*)row + first + v * kLanes);
  }
};

struct BF16 {
  static constexpr int64_t kChunk = kVectors * kLanes;
  static constexpr bool kHasScales = false;
  static inline int64_t row_bytes(int64_t cols) { return 2 * cols; }
  static inline int64_t output(int64_t first, int64_t, int v) { return first + v * kLanes; }
  static inline __m512 read(const char* row, int64_t first, int v, __mmask16 mask) {
    const __m256i x = _mm256_maskz_loadu_epi16(mask, (const uint16_t*)row + first + v * kLanes);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
};

struct Int8 {
  static constexpr int64_t kChunk = kVectors * kLanes;
  static constexpr bool kHasScales = true;
  static inline int64_t row_bytes(int64_t cols) { return cols; }
  static inline int64_t output(int64_t first, int64_t, int v) { return first + v * kLanes; }
  static inline __m512 read(const char* row, int64_t first, int v, __mmask16 mask) {
    const __m128i x = _mm_maskz_loadu_epi8(mask, row + first + v * kLanes);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x));
  }
};

// The first vectors are of lower halves, the last of upper ones.
struct Int4 {
  static constexpr int64_t kChunk = kVectors / 2 * kLanes;
  static constexpr bool kHasScales = true;
  static inline int64_t row_bytes(int64_t cols) { return (cols + 1) / 2; }
  static inline int64_t output(int64_t first, int64_t cols, int v) {
    return first + v % 2 * kLanes + (v < 2 ? 0 : row_bytes(cols));
  }
  static inline __m512 read(const char* row, int64_t first, int v, __mmask16 mask) {
    const __m128i bytes = _mm_maskz_loadu_epi8(mask, row + first + v % 2 * kLanes);
    const __m512i x = _mm512_cvtepu8_epi32(bytes);
    const __m512 floats = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
    return _mm512_permutexvar_ps(v < 2 ? x : _mm512_srli_epi32(x, 4), floats);
  }
};

inline const char* row_of(const Args& args, int32_t place, int64_t row_bytes) {
  return (const char*)args.pages[place / kPageRows] + args.rows_at + place % kPageRows * row_bytes;
}

inline const float* scale_of(const Args& args, int32_t place) {
  return (const float*)((const char*)args.pages[place / kPageRows] + args.scales_at) +
         place % kPageRows;
}

inline __mmask16 first_lanes(int64_t left) { return left < 0 ? __mmask16(0) : tail_mask(left); }

template <typename X>
void chunk(const Args& args, int64_t query, int64_t first) {
  const int32_t* places = args.places + query * args.places_stride;
  const float* weights = args.weights + query * args.weights_stride;
  const int32_t count = args.counts[query];
  const int64_t row_bytes = X::row_bytes(args.cols);
  // Of the elements of a row that are there, bytes of kInt4: its upper halves may be one fewer.
  const int64_t there = (X::kChunk < kVectors * kLanes ? row_bytes : args.cols) - first;
  __mmask16 masks[kVectors], written[kVectors];
  __m512 sum[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    masks[v] = first_lanes(there - v * kLanes % X::kChunk);
    written[v] = masks[v] & first_lanes(args.cols - X::output(first, args.cols, v));
    sum[v] = _mm512_setzero_ps();
  }
  for (int32_t i = 0; i < count; ++i) {
    if (first == 0 && i + kAhead < count) {
      const char* ahead = row_of(args, places[i + kAhead], row_bytes);
      for (int64_t at = 0; at < row_bytes; at += kLine) _mm_prefetch(ahead + at, _MM_HINT_T0);
      if (X::kHasScales) _mm_prefetch((const char*)scale_of(args, places[i + kAhead]), _MM_HINT_T0);
    }
    const int32_t place = places[i];
    float weight = weights[place];
    if (weight == 0) continue;
    if (X::kHasScales) weight *= *scale_of(args, place);
    const char* row = row_of(args, place, row_bytes);
    const __m512 by = _mm512_set1_ps(weight);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      sum[v] = _mm512_fmadd_ps(by, X::read(row, first, v, masks[v]), sum[v]);
  }
  float* y = args.y + query * args.y_stride;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v)
    _mm512_mask_storeu_ps(y + X::output(first, args.cols, v), written[v], sum[v]);
}

template <typename X>
void sums(const Args& args, Exec exec) {
  const int64_t end = X::kChunk < kVectors * kLanes ? X::row_bytes(args.cols) : args.cols;
  for (int64_t query = exec.begin; query < exec.end; ++query) {
    for (int64_t first = 0; first < end; first += X::kChunk) chunk<X>(args, query, first);
  }
}

}  // namespace

void avx512(const Args& args, Exec exec) noexcept {
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
