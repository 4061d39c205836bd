#include "kernels/tile_matmul/tile_matmul.h"

namespace tessera::tile_matmul {
namespace {

double weight(const Args& args, int64_t block, int64_t k, int64_t n) {
  const int64_t per_step = 16 / args.shape.outputs;
  const int64_t step = k / per_step, lane = n * per_step + k % per_step;
  const int64_t start = block * args.shape.inputs * args.shape.outputs;
  if (args.weight_type == DType::kF32) {
    return static_cast<const float*>(args.values)[start + step * 16 + lane];
  }
  const auto* bits = static_cast<const uint16_t*>(args.values);
  if (args.shape.inputs == 1) return bf16_to_f32(bits[start + lane]);
  return bf16_to_f32(bits[start + step / 2 * 32 + lane * 2 + step % 2]);
}

double sum(const Args& args, const TilePanel& panel, int64_t m, int64_t n) {
  double sum = 0;
  for (int64_t block = panel.begin; block < panel.end; ++block) {
    const int64_t first = int64_t{args.blocks[block]} * args.shape.inputs;
    for (int64_t k = 0; k < args.shape.inputs && first + k < args.inputs; ++k) {
      sum += args.x[m * args.x_stride + first + k] * weight(args, block, k, n);
    }
  }
  return sum;
}

}  // namespace

void ref(const Args& args, Exec exec) noexcept {
  for (int64_t p = exec.begin; p < exec.end; ++p) {
    const TilePanel& panel = args.panels[p];
    for (int64_t m = 0; m < args.rows; ++m) {
      for (int64_t i = 0; i < panel.outputs; ++i) {
        const int64_t n = panel.output + i;
        const double bias = args.bias != nullptr ? args.bias[n] : 0;
        const float before = static_cast<float>(sum(args, panel, m, i) + bias);
        // The activation family's reference is the one definition of f.
        float after = 0;
        activation::ref({.function = args.activation, .x = &before, .cols = 1, .y = &after},
                        {0, 1});
        if (args.residual != nullptr) after += args.residual[m * args.residual_stride + n];
        args.y[m * args.y_stride + n] = after;
      }
    }
  }
}

}  // namespace tessera::tile_matmul
