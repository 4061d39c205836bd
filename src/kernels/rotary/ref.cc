#include "kernels/rotary/rotary.h"

namespace tessera::rotary {

void ref(const Args& args, Exec exec) noexcept {
  const int64_t half = args.rotated / 2;
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const float* cosines = args.cosines + args.positions[r] * half;
    const float* sines = args.sines + args.positions[r] * half;
    for (int64_t h = 0; h < args.heads; ++h) {
      float* x = args.x + r * args.x_stride + h * args.head_size;
      for (int64_t j = 0; j < half; ++j) {
        const double a = x[j], b = x[j + half], c = cosines[j], s = sines[j];
        x[j] = static_cast<float>(a * c - b * s);
        x[j + half] = static_cast<float>(b * c + a * s);
      }
    }
  }
}

}  // namespace tessera::rotary
