#include <algorithm>

#include "kernels/csr_matmul/csr_matmul.h"

namespace tessera::csr_matmul {
namespace {

double weight(const Args& args, int64_t i) {
  return args.weight_type == DType::kF32
             ? static_cast<const float*>(args.values)[i]
             : bf16_to_f32(static_cast<const uint16_t*>(args.values)[i]);
}

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  const int64_t end = std::min(exec.end * kGroupOutputs, args.outputs);
  for (int64_t n = exec.begin * kGroupOutputs; n < end; ++n) {
    for (int64_t m = 0; m < args.rows; ++m) {
      double sum = args.bias != nullptr ? args.bias[n] : 0;
      for (int64_t i = args.offsets[n]; i < args.offsets[n + 1]; ++i) {
        const int64_t k = args.columns[i];
        sum += weight(args, i) * (args.rows == 1 ? args.x[k] : args.x[k * args.x_stride + m]);
      }
      // The activation family's reference is the one definition of f.
      const float before = static_cast<float>(sum);
      float after = 0;
      activation::ref({.function = args.activation, .x = &before, .cols = 1, .y = &after}, {0, 1});
      if (args.residual != nullptr) after += args.residual[m * args.residual_stride + n];
      args.y[m * args.y_stride + n] = after;
    }
  }
}

}  // namespace tessera::csr_matmul
