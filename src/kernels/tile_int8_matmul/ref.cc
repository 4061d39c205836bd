#include "kernels/tile_int8_matmul/tile_int8_matmul.h"

namespace tessera::tile_int8_matmul {
namespace {

int64_t weight(const Args& args, int64_t block, int64_t k, int64_t n) {
  const int64_t per_step = 64 / args.shape.outputs;
  const int64_t start = block * args.shape.inputs * args.shape.outputs;
  return args.values[start + k / per_step * 64 + n * per_step + k % per_step];
}

int64_t sum(const Args& args, const TilePanel& panel, int64_t m, int64_t n) {
  int64_t sum = 0;
  for (int64_t block = panel.begin; block < panel.end; ++block) {
    const int64_t first = int64_t{args.blocks[block]} * args.shape.inputs;
    for (int64_t k = 0; k < args.shape.inputs && first + k < args.inputs; ++k) {
      const int64_t x = args.x.values[m * args.x.stride + first + k];
      sum += (x - args.x.zeros[m]) * weight(args, block, k, n);
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
        const double scale = double{args.x.scales[m]} * args.scales[n];
        const double bias = args.bias != nullptr ? args.bias[n] : 0;
        const auto before =
            static_cast<float>(scale * static_cast<double>(sum(args, panel, m, i)) + bias);
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

}  // namespace tessera::tile_int8_matmul
