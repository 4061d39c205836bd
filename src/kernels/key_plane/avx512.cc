#include <immintrin.h>

#include "kernels/key_plane/key_plane.h"

namespace tessera::key_plane {
namespace {

constexpr int64_t kLanes = 16;
constexpr int kVectors = kCols / kLanes;
// 4 x 4 sums, 4 vectors of b, a broadcast and a table of floats: 26 of the 32 registers.
constexpr int kTileRows = 4;

// next: null where nothing is to be fetched.
inline void fetch(const char* next, int64_t row) {
  if (next != nullptr) _mm_prefetch(next + row * kCols, _MM_HINT_T0);
}

inline __m512i bytes(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
}

// The floats of 4 bits, which a permutation looks up by the lowest of each lane.
inline __m512 table(Integers integers) {
  if (integers == Integers::kUint4)
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
}

template <int kRows>
inline void multiply_add(const float* a, int64_t stride, const __m512* panel,
                         __m512 (*sum)[kVectors]) {
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const __m512 value = _mm512_set1_ps(a[r * stride]);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = _mm512_fmadd_ps(value, panel[v], sum[r][v]);
  }
}

template <int kRows>
inline void add_int8(const Args& args, const float* a, const char* next, __m512 (*sum)[kVectors]) {
  const auto* b = (const int8_t*)args.b;
  for (int64_t k = 0; k < args.depth; ++k, b += kCols) {
    fetch(next, k);
    __m512 panel[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const __m128i narrow = _mm_loadu_si128((const __m128i*)(b + v * kLanes));
      panel[v] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(narrow));
    }
    multiply_add<kRows>(a + k, args.a_stride, panel, sum);
  }
}

template <int kRows>
inline void add_int4(const Args& args, const float* a, const char* next, __m512 (*sum)[kVectors]) {
  const auto* b = (const uint8_t*)args.b;
  const int64_t half = (args.depth + 1) / 2;
  const __m512 floats = table(args.integers);
  for (int64_t k = 0; k < half; ++k, b += kCols) {
    fetch(next, k);
    __m512 panel[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      panel[v] = _mm512_permutexvar_ps(bytes(b + v * kLanes), floats);
    multiply_add<kRows>(a + k, args.a_stride, panel, sum);
    if (k + half == args.depth) continue;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      panel[v] = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes(b + v * kLanes), 4), floats);
    }
    multiply_add<kRows>(a + k + half, args.a_stride, panel, sum);
  }
}

template <int kRows>
void tile(const Args& args, int64_t row, const char* next) {
  const float* a = args.a + row * args.a_stride;
  __m512 sum[kRows][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = _mm512_setzero_ps();
  }
  if (args.integers == Integers::kInt8) {
    add_int8<kRows>(args, a, next, sum);
  } else {
    add_int4<kRows>(args, a, next, sum);
  }
  const __m512 factor = _mm512_set1_ps(args.factor);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    float* c = args.c + (row + r) * args.c_stride;
    const __m512 offset = _mm512_set1_ps(args.offset[row + r]);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* p = c + v * kLanes;
      const __m512 start = args.start == Start::kAdd ? _mm512_loadu_ps(p) : _mm512_setzero_ps();
      const __m512 scaled = _mm512_fmadd_ps(sum[r][v], factor, offset);
      const __m512 scale = _mm512_loadu_ps(args.scale + v * kLanes);
      _mm512_storeu_ps(p, _mm512_fmadd_ps(scaled, scale, start));
    }
  }
}

using Tile = void (*)(const Args&, int64_t, const char*);
constexpr Tile kTiles[kTileRows + 1] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>};

}  // namespace

void avx512(const Args& args, Exec exec) noexcept {
  for (int64_t row = exec.begin; row < exec.end; row += kTileRows) {
    const int64_t rows = exec.end - row < kTileRows ? exec.end - row : kTileRows;
    kTiles[rows](args, row, row == exec.begin ? (const char*)args.next : nullptr);
  }
}

}  // namespace tessera::key_plane
