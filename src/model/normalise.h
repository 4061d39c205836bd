#pragma once

#include "base/team.h"
#include "model/architecture.h"
#include "model/weights.h"

namespace tessera {

// y = norm(x), rows of hidden_size floats; y may be x.
void normalise(const Architecture& architecture, const NormWeights& norm, const float* x, float* y,
               Range rows);

}  // namespace tessera
