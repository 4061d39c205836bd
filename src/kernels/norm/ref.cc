#include <cmath>

#include "kernels/norm/norm.h"

namespace tessera::norm {

void ref(const Args& args, Exec exec) noexcept {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const float* x = args.x + r * args.x_stride;
    float* y = args.y + r * args.y_stride;
    double mean = 0;
    if (args.kind == Kind::kLayer) {
      for (int64_t c = 0; c < args.cols; ++c) mean += x[c];
      mean /= static_cast<double>(args.cols);
    }
    double square = 0;
    for (int64_t c = 0; c < args.cols; ++c) square += (x[c] - mean) * (x[c] - mean);
    const double scale = 1 / std::sqrt(square / static_cast<double>(args.cols) + args.eps);
    for (int64_t c = 0; c < args.cols; ++c) {
      const double weight = static_cast<double>(args.weight[c]) + args.weight_offset;
      const double bias = args.bias != nullptr ? args.bias[c] : 0.0;
      y[c] = static_cast<float>((x[c] - mean) * scale * weight + bias);
    }
  }
}

}  // namespace tessera::norm
