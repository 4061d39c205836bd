#include <algorithm>
#include <cmath>

#include "formats/panels.h"
#include "kernels/matmul/matmul.h"

namespace tessera::matmul {
namespace {

double weight(const Args& args, int64_t k, int64_t n) {
  const int64_t panel = n / kPanelOutputs, within = n % kPanelOutputs;
  const int64_t start = panel * panel_elements(args.weight_type, args.inputs);
  if (args.weight_type == DType::kF32) {
    return static_cast<const float*>(args.panels)[start + k * kPanelOutputs + within];
  }
  const auto* bits = static_cast<const uint16_t*>(args.panels);
  return bf16_to_f32(bits[start + k / 2 * 2 * kPanelOutputs + within * 2 + k % 2]);
}

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  const int64_t end = std::min(exec.end * kPanelOutputs, args.outputs);
  const Exec whole{0, args.inputs};
  const Exec* parts = args.input_parts != nullptr ? args.input_parts : &whole;
  const int64_t count = args.input_parts != nullptr ? args.input_part_count : 1;
  for (int64_t m = 0; m < args.rows; ++m) {
    for (int64_t n = exec.begin * kPanelOutputs; n < end; ++n) {
      double sum = 0;
      for (int64_t p = 0; p < count; ++p) {
        for (int64_t k = parts[p].begin; k < parts[p].end; ++k)
          sum += args.x[m * args.x_stride + k] * weight(args, k, n);
      }
      if (args.bias != nullptr) sum += args.bias[n];
      // The activation family's reference is the one definition of f.
      const float before = static_cast<float>(sum);
      float after = 0;
      activation::ref({.function = args.activation, .x = &before, .cols = 1, .y = &after}, {0, 1});
      if (args.residual != nullptr) after += args.residual[m * args.residual_stride + n];
      args.y[m * args.y_stride + n] = after;
    }
  }
}

}  // namespace tessera::matmul
