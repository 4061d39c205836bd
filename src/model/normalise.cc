#include "model/normalise.h"

#include "kernels/norm/norm.h"

namespace tessera {

void normalise(const Architecture& architecture, const NormWeights& norm, const float* x, float* y,
               Range rows) {
  norm::kernels.run({.kind = architecture.norm_kind,
                     .x = x,
                     .x_stride = architecture.hidden_size,
                     .cols = architecture.hidden_size,
                     .weight = norm.weight.data(),
                     .bias = norm.bias.empty() ? nullptr : norm.bias.data(),
                     .eps = architecture.norm_eps,
                     .y = y,
                     .y_stride = architecture.hidden_size},
                    {rows.begin, rows.end});
}

}  // namespace tessera
