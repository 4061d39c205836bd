#include <immintrin.h>

#include "kernels/rows_to_f32/rows_to_f32.h"

namespace tessera::rows_to_f32 {
namespace {

constexpr int64_t kLanes = 8;

inline __m256 widened(const uint16_t* x) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)x));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

inline __m256 widened(const int8_t* x) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)x)));
}

// What is left of a row behind its whole vectors.
void remainder(const Args& args, int64_t row, int64_t col) {
  float* y = args.y + row * args.y_stride;
  for (int64_t c = col; c < args.cols; ++c) {
    const int64_t at = row * args.x_stride + c;
    if (args.dtype == DType::kBF16) {
      const uint32_t bits = (uint32_t)((const uint16_t*)args.x)[at] << 16;
      _mm_store_ss(y + c, _mm_castsi128_ps(_mm_cvtsi32_si128((int)bits)));
    } else {
      const float scale = args.row_scale != nullptr ? args.row_scale[row] : args.col_scale[c];
      y[c] = (float)((const int8_t*)args.x)[at] * scale;
    }
  }
}

void bf16(const Args& args, int64_t row, int64_t whole) {
  const auto* x = (const uint16_t*)args.x + row * args.x_stride;
  float* y = args.y + row * args.y_stride;
  for (int64_t c = 0; c < whole; c += kLanes) _mm256_storeu_ps(y + c, widened(x + c));
}

void int8(const Args& args, int64_t row, int64_t whole) {
  const auto* x = (const int8_t*)args.x + row * args.x_stride;
  float* y = args.y + row * args.y_stride;
  if (args.row_scale != nullptr) {
    const __m256 scale = _mm256_set1_ps(args.row_scale[row]);
    for (int64_t c = 0; c < whole; c += kLanes)
      _mm256_storeu_ps(y + c, _mm256_mul_ps(widened(x + c), scale));
    return;
  }
  for (int64_t c = 0; c < whole; c += kLanes) {
    const __m256 scale = _mm256_loadu_ps(args.col_scale + c);
    _mm256_storeu_ps(y + c, _mm256_mul_ps(widened(x + c), scale));
  }
}

}  // namespace

void avx2(const Args& args, Exec exec) noexcept {
  const int64_t whole = args.cols / kLanes * kLanes;
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    if (args.dtype == DType::kBF16) {
      bf16(args, r, whole);
    } else {
      int8(args, r, whole);
    }
    remainder(args, r, whole);
  }
}

}  // namespace tessera::rows_to_f32
