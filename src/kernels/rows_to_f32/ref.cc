#include "kernels/rows_to_f32/rows_to_f32.h"

namespace tessera::rows_to_f32 {

void ref(const Args& args, Exec exec) noexcept {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    float* y = args.y + r * args.y_stride;
    for (int64_t c = 0; c < args.cols; ++c) {
      const int64_t at = r * args.x_stride + c;
      if (args.dtype == DType::kBF16) {
        y[c] = bf16_to_f32(static_cast<const uint16_t*>(args.x)[at]);
      } else {
        const float scale = args.row_scale != nullptr ? args.row_scale[r] : args.col_scale[c];
        y[c] = static_cast<float>(static_cast<const int8_t*>(args.x)[at]) * scale;
      }
    }
  }
}

}  // namespace tessera::rows_to_f32
