#include <immintrin.h>

#include "kernels/rows_to_f32/rows_to_f32.h"
#include "kernels/vector_math_avx512.h"

namespace tessera::rows_to_f32 {
namespace {

constexpr int64_t kLanes = 16;

inline __m512 widened(const uint16_t* x, __mmask16 mask) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

inline __m512 widened(const int8_t* x, __mmask16 mask) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, x)));
}

void bf16(const Args& args, Exec exec) {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const auto* x = (const uint16_t*)args.x + r * args.x_stride;
    float* y = args.y + r * args.y_stride;
    for (int64_t c = 0; c < args.cols; c += kLanes) {
      const __mmask16 mask = tail_mask(args.cols - c);
      _mm512_mask_storeu_ps(y + c, mask, widened(x + c, mask));
    }
  }
}

void int8_rows(const Args& args, Exec exec) {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const auto* x = (const int8_t*)args.x + r * args.x_stride;
    float* y = args.y + r * args.y_stride;
    const __m512 scale = _mm512_set1_ps(args.row_scale[r]);
    for (int64_t c = 0; c < args.cols; c += kLanes) {
      const __mmask16 mask = tail_mask(args.cols - c);
      _mm512_mask_storeu_ps(y + c, mask, _mm512_mul_ps(widened(x + c, mask), scale));
    }
  }
}

// The scales of kVectors vectors stay in registers.
template <int kVectors>
void int8_columns(const Args& args, Exec exec, int64_t col) {
  __mmask16 mask[kVectors];
  __m512 scale[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    mask[v] = tail_mask(args.cols - col - v * kLanes);
    scale[v] = _mm512_maskz_loadu_ps(mask[v], args.col_scale + col + v * kLanes);
  }
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const auto* x = (const int8_t*)args.x + r * args.x_stride + col;
    float* y = args.y + r * args.y_stride + col;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      _mm512_mask_storeu_ps(y + v * kLanes, mask[v],
                            _mm512_mul_ps(widened(x + v * kLanes, mask[v]), scale[v]));
    }
  }
}

}  // namespace

void avx512(const Args& args, Exec exec) noexcept {
  if (args.dtype == DType::kBF16) return bf16(args, exec);
  if (args.row_scale != nullptr) return int8_rows(args, exec);
  int64_t col = 0;
  for (; col + 3 * kLanes < args.cols; col += 4 * kLanes) int8_columns<4>(args, exec, col);
  for (; col < args.cols; col += kLanes) int8_columns<1>(args, exec, col);
}

}  // namespace tessera::rows_to_f32
