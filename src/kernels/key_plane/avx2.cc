#include <immintrin.h>

#include "kernels/key_plane/key_plane.h"

namespace tessera::key_plane {
namespace {

constexpr int64_t kLanes = 8;
// 2 x 4 sums, 4 vectors of b and a broadcast: 13 of the 16 registers. A panel goes in two halves.
constexpr int kTileRows = 2;
constexpr int kVectors = 4;
constexpr int64_t kHalf = kVectors * kLanes;

// next: null where nothing is to be fetched.
inline void fetch(const char* next, int64_t row) {
  if (next != nullptr) _mm_prefetch(next + row * kCols, _MM_HINT_T0);
}

struct Int8 {
  static constexpr int kPerByte = 1;
  static inline __m256 read(const uint8_t* p, int) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
  }
};

struct Uint4 {
  static constexpr int kPerByte = 2;
  static inline __m256i halves(const uint8_t* p, int half) {
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
    return half == 0 ? _mm256_and_si256(bytes, _mm256_set1_epi32(15)) : _mm256_srli_epi32(bytes, 4);
  }
  static inline __m256 read(const uint8_t* p, int half) {
    return _mm256_cvtepi32_ps(halves(p, half));
  }
};

struct Int4 {
  static constexpr int kPerByte = 2;
  static inline __m256 read(const uint8_t* p, int half) {
    const __m256i high = _mm256_slli_epi32(Uint4::halves(p, half), 28);
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(high, 28));
  }
};

template <typename B, int kRows>
void tile(const Args& args, int64_t row, int64_t col, const char* next) {
  const float* a = args.a + row * args.a_stride;
  __m256 sum[kRows][kVectors];
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = _mm256_setzero_ps();
  }
  const int64_t byte_rows = (args.depth + B::kPerByte - 1) / B::kPerByte;
  const auto* b = (const uint8_t*)args.b + col;
  for (int64_t k = 0; k < byte_rows; ++k, b += kCols) {
    fetch(next, k);
#pragma GCC unroll 2
    for (int half = 0; half < B::kPerByte; ++half) {
      const int64_t feature = k + half * byte_rows;
      if (feature == args.depth) continue;
      __m256 panel[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) panel[v] = B::read(b + v * kLanes, half);
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r) {
        const __m256 value = _mm256_set1_ps(a[r * args.a_stride + feature]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[r][v] = _mm256_fmadd_ps(value, panel[v], sum[r][v]);
      }
    }
  }
  const __m256 factor = _mm256_set1_ps(args.factor);
#pragma GCC unroll 2
  for (int r = 0; r < kRows; ++r) {
    float* c = args.c + (row + r) * args.c_stride + col;
    const __m256 offset = _mm256_set1_ps(args.offset[row + r]);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* p = c + v * kLanes;
      const __m256 start = args.start == Start::kAdd ? _mm256_loadu_ps(p) : _mm256_setzero_ps();
      const __m256 scaled = _mm256_fmadd_ps(sum[r][v], factor, offset);
      const __m256 scale = _mm256_loadu_ps(args.scale + col + v * kLanes);
      _mm256_storeu_ps(p, _mm256_fmadd_ps(scaled, scale, start));
    }
  }
}

template <typename B>
void scores(const Args& args, Exec exec) {
  for (int64_t row = exec.begin; row < exec.end; row += kTileRows) {
    const char* next = row == exec.begin ? (const char*)args.next : nullptr;
    for (int64_t col = 0; col < kCols; col += kHalf) {
      if (exec.end - row >= kTileRows) {
        tile<B, kTileRows>(args, row, col, col == 0 ? next : nullptr);
      } else {
        tile<B, 1>(args, row, col, col == 0 ? next : nullptr);
      }
    }
  }
}

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  if (args.integers == Integers::kInt8) return scores<Int8>(args, exec);
  if (args.integers == Integers::kInt4) return scores<Int4>(args, exec);
  scores<Uint4>(args, exec);
}

}  // namespace tessera::key_plane
