#include <algorithm>

#include "base/dtype.h"
#include "formats/panels.h"
#include "kernels/bf16_matmul/bf16_matmul.h"

namespace tessera::bf16_matmul {
namespace {

double weight(const Args& args, int64_t k, int64_t n) {
  const int64_t start = n / kPanelOutputs * panel_elements(DType::kBF16, args.inputs);
  const auto* bits = static_cast<const uint16_t*>(args.panels);
  return bf16_to_f32(bits[start + k / 2 * 2 * kPanelOutputs + n % kPanelOutputs * 2 + k % 2]);
}

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  const int64_t end = std::min(exec.end * kPanelOutputs, args.outputs);
  const Exec whole{0, (args.inputs + 1) / 2};
  const Exec* parts = args.pair_parts != nullptr ? args.pair_parts : &whole;
  const int64_t count = args.pair_parts != nullptr ? args.pair_part_count : 1;
  for (int64_t m = 0; m < args.rows; ++m) {
    for (int64_t n = exec.begin * kPanelOutputs; n < end; ++n) {
      double sum = 0;
      for (int64_t p = 0; p < count; ++p) {
        for (int64_t k = 2 * parts[p].begin; k < std::min(2 * parts[p].end, args.inputs); ++k)
          sum +=
              static_cast<double>(bf16_to_f32(args.x[m * args.x_stride + k])) * weight(args, k, n);
      }
      if (args.bias != nullptr) sum += static_cast<double>(args.bias[n]);
      // The activation family's reference is the one definition of f.
      const float before = static_cast<float>(sum);
      float after = 0;
      activation::ref({.function = args.activation, .x = &before, .cols = 1, .y = &after}, {0, 1});
      if (args.residual != nullptr) after += args.residual[m * args.residual_stride + n];
      args.y[m * args.y_stride + n] = after;
    }
  }
}

}  // namespace tessera::bf16_matmul
