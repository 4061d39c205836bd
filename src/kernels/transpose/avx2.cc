#include <immintrin.h>

#include "kernels/transpose/transpose.h"

namespace tessera::transpose {
namespace {

constexpr int64_t kSide = 8;

void plain(const Args& args, Exec rows, int64_t begin, int64_t end) {
  for (int64_t c = begin; c < end; ++c) {
    float* y = args.y + c * args.y_stride;
    for (int64_t r = rows.begin; r < rows.end; ++r) y[r] = args.x[r * args.x_stride + c];
  }
}

// Rows i and i + 4 of an 8 x 8 square meet in one register, so that what is left are two 4 x 4
// transpositions side by side.
inline __m256 pair(const float* x, int64_t stride) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(x)), _mm_loadu_ps(x + 4 * stride),
                              1);
}

// Columns c .. c + 3 of the rows r .. r + 7.
inline void eight_by_four(const float* x, int64_t x_stride, float* y, int64_t y_stride) {
  const __m256 a = pair(x, x_stride), b = pair(x + x_stride, x_stride);
  const __m256 c = pair(x + 2 * x_stride, x_stride), d = pair(x + 3 * x_stride, x_stride);
  const __m256 ab_low = _mm256_unpacklo_ps(a, b), ab_high = _mm256_unpackhi_ps(a, b);
  const __m256 cd_low = _mm256_unpacklo_ps(c, d), cd_high = _mm256_unpackhi_ps(c, d);
  _mm256_storeu_ps(y, _mm256_shuffle_ps(ab_low, cd_low, 0x44));
  _mm256_storeu_ps(y + y_stride, _mm256_shuffle_ps(ab_low, cd_low, 0xee));
  _mm256_storeu_ps(y + 2 * y_stride, _mm256_shuffle_ps(ab_high, cd_high, 0x44));
  _mm256_storeu_ps(y + 3 * y_stride, _mm256_shuffle_ps(ab_high, cd_high, 0xee));
}

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  const int64_t even_cols = args.cols / 4 * 4;
  int64_t r = exec.begin;
  for (; r + kSide <= exec.end; r += kSide) {
    for (int64_t c = 0; c < even_cols; c += 4) {
      eight_by_four(args.x + r * args.x_stride + c, args.x_stride, args.y + c * args.y_stride + r,
                    args.y_stride);
    }
    plain(args, {r, r + kSide}, even_cols, args.cols);
  }
  if (r < exec.end) plain(args, {r, exec.end}, 0, args.cols);
}

}  // namespace tessera::transpose
