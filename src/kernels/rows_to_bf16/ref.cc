#include <cmath>

#include "base/dtype.h"
#include "kernels/rows_to_bf16/rows_to_bf16.h"

namespace tessera::rows_to_bf16 {

void ref(const Args& args, Exec exec) noexcept {
  for (int64_t m = exec.begin; m < exec.end; ++m) {
    const float* x = args.x + m * args.x_stride;
    uint16_t* y = args.y + m * args.y_stride;
    for (int64_t k = 0; k < args.inputs; ++k) {
      const bool tiny = std::fabs(x[k]) < 0x1p-126f;
      y[k] = f32_to_bf16(tiny ? std::copysign(0.0f, x[k]) : x[k]);
    }
    for (int64_t k = args.inputs; k % kMultiple != 0; ++k) y[k] = 0;
  }
}

}  // namespace tessera::rows_to_bf16
