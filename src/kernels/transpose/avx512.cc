#include <immintrin.h>

#include "kernels/transpose/square_avx512.h"
#include "kernels/transpose/transpose.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::transpose {
namespace {

constexpr int64_t kSide = 16;
// With fewer rows a square would be mostly empty.
constexpr int64_t kLeastRows = 4;

// Rows r .. r + rows - 1 and columns c .. c + cols - 1, at most 16 of each.
inline void square(const float* x, int64_t x_stride, float* y, int64_t y_stride, int64_t rows,
                   int64_t cols) {
  const __mmask16 in_row = tail_mask(cols), in_column = tail_mask(rows);
  __m512 v[kSide];
  for (int64_t r = 0; r < kSide; ++r) {
    v[r] = r < rows ? _mm512_maskz_loadu_ps(in_row, x + r * x_stride) : _mm512_setzero_ps();
  }
  transpose_square(v);
#pragma GCC unroll 16
  for (int64_t c = 0; c < kSide; ++c) {
    if (c < cols) _mm512_mask_storeu_ps(y + c * y_stride, in_column, v[c]);
  }
}

}  // namespace

void avx512(const Args& args, Exec exec) noexcept {
  if (exec.end - exec.begin < kLeastRows) return avx2(args, exec);
  for (int64_t r = exec.begin; r < exec.end; r += kSide) {
    const int64_t rows = exec.end - r < kSide ? exec.end - r : kSide;
    for (int64_t c = 0; c < args.cols; c += kSide) {
      const int64_t cols = args.cols - c < kSide ? args.cols - c : kSide;
      square(args.x + r * args.x_stride + c, args.x_stride, args.y + c * args.y_stride + r,
             args.y_stride, rows, cols);
    }
  }
}

}  // namespace tessera::transpose
