#pragma once

#include "base/status.h"
#include "base/team.h"
#include "compress/mask.h"
#include "compress/statistics.h"

namespace tessera {

// The kept weights of W' that make (W - W') H (W - W')^T least, by rows of tiles, whose outputs
// keep the same inputs:
//   W'_S = W_S + W_P H_PS H_SS^-1            S: kept inputs, P: pruned
//        = W_S - W_P (H^-1_PP)^-1 H^-1_PS    where P is smaller
// kInvalidInput where H is not positive definite. The result does not depend on the team.
Status repair_tiles(const TileMask& mask, Hessian& hessian, Weight& weight, Team& team);

// The same for masks whose every output keeps other inputs, approximately: one sweep over the
// inputs that spreads each pruned weight's error over those behind it (SparseGPT), as one solution
// an output would take too long.
Status repair_elements(const TileMask& mask, Hessian& hessian, Weight& weight, Team& team);

}  // namespace tessera
