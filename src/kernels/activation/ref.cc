#include <cmath>

#include "kernels/activation/activation.h"

namespace tessera::activation {
namespace {

double apply(Activation function, double x) {
  constexpr double kPi = 3.14159265358979323846;
  // At -inf the products below would be inf * 0; their limit is 0.
  const bool vanishes = std::isinf(x) && x < 0;
  switch (function) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return x < 0 ? 0 : x;
    case Activation::kGeluErf:
      return vanishes ? 0 : x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case Activation::kGeluTanh:
      return vanishes ? 0
                      : x * 0.5 * (1 + std::tanh(std::sqrt(2 / kPi) * (x + 0.044715 * x * x * x)));
    case Activation::kSilu:
      return vanishes ? 0 : x / (1 + std::exp(-x));
    case Activation::kTanh:
      return std::tanh(x);
  }
  return x;
}

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    const float* x = args.x + r * args.x_stride;
    const float* up = args.up != nullptr ? args.up + r * args.up_stride : nullptr;
    float* y = args.y + r * args.y_stride;
    for (int64_t c = 0; c < args.cols; ++c) {
      const double gate = up != nullptr ? up[c] : 1.0;
      y[c] = static_cast<float>(apply(args.function, x[c]) * gate);
    }
  }
}

}  // namespace tessera::activation
