#include "kernels/tile_outer/tile_outer.h"

namespace tessera::tile_outer {

void ref(const Args& args, Exec exec) noexcept {
  for (int64_t p = exec.begin; p < exec.end; ++p) {
    const TilePanel& panel = args.panels[p];
    for (int32_t b = panel.begin; b < panel.end; ++b) {
      const int64_t first = int64_t{args.blocks[b]} * args.shape.inputs;
      for (int64_t n = panel.output; n < panel.output + panel.outputs; ++n) {
        for (int64_t k = first; k < first + args.shape.inputs && k < args.inputs; ++k) {
          double sum = 0;
          for (int64_t m = 0; m < args.rows; ++m) {
            sum += static_cast<double>(args.dy[m * args.dy_stride + n]) *
                   args.x[m * args.x_stride + k];
          }
          args.dw[n * args.dw_stride + k] = static_cast<float>(sum);
        }
      }
    }
  }
}

}  // namespace tessera::tile_outer
