#include <algorithm>

#include "formats/panels.h"
#include "kernels/int8_matmul/int8_matmul.h"

namespace tessera::int8_matmul {
namespace {

int64_t weight(const Args& args, int64_t k, int64_t n) {
  const int8_t* panel = args.panels + n / kPanelOutputs * panel_bytes(args.inputs);
  return panel[(k / 4 * kPanelOutputs + n % kPanelOutputs) * 4 + k % 4];
}

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  const int64_t end = std::min(exec.end * kPanelOutputs, args.outputs);
  const Exec whole{0, (args.inputs + 3) / 4};
  const Exec* parts = args.four_parts != nullptr ? args.four_parts : &whole;
  const int64_t count = args.four_parts != nullptr ? args.four_part_count : 1;
  for (int64_t m = 0; m < args.rows; ++m) {
    const uint8_t* x = args.x.values + m * args.x.stride;
    for (int64_t n = exec.begin * kPanelOutputs; n < end; ++n) {
      int64_t sum = 0;
      for (int64_t p = 0; p < count; ++p) {
        for (int64_t k = 4 * parts[p].begin; k < std::min(4 * parts[p].end, args.inputs); ++k)
          sum += (x[k] - args.x.zeros[m]) * weight(args, k, n);
      }
      double value =
          static_cast<double>(args.x.scales[m]) * args.scales[n] * static_cast<double>(sum);
      if (args.bias != nullptr) value += args.bias[n];
      // The activation family's reference is the one definition of f.
      const float before = static_cast<float>(value);
      float after = 0;
      activation::ref({.function = args.activation, .x = &before, .cols = 1, .y = &after}, {0, 1});
      if (args.residual != nullptr) after += args.residual[m * args.residual_stride + n];
      args.y[m * args.y_stride + n] = after;
    }
  }
}

}  // namespace tessera::int8_matmul
