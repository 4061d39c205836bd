#include "kernels/transpose/transpose.h"

namespace tessera::transpose {

void ref(const Args& args, Exec exec) noexcept {
  for (int64_t r = exec.begin; r < exec.end; ++r) {
    for (int64_t c = 0; c < args.cols; ++c)
      args.y[c * args.y_stride + r] = args.x[r * args.x_stride + c];
  }
}

}  // namespace tessera::transpose
