#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "base/team.h"
#include "io/checkpoint.h"
#include "model/architecture.h"
#include "model/fold.h"
#include "model/weights.h"
#include "plan/plan.h"

namespace tessera {

struct LoadedWeights {
  Weights weights;
  int64_t parameters = 0;
  std::vector<VoChoice> vo;  // per layer, as chosen when the weights were known: for LayerPlan::vo
};

// Reads every tensor that the architecture names, checks its shape, prepares it as the plan says,
// and gives the source's pages back as it goes, so that memory peaks near the prepared size.
// value_bias: kWithValues for models whose heads leave.
Result<LoadedWeights> load_weights(const Checkpoint& checkpoint, const Architecture& architecture,
                                   const Plan& plan, Team& team,
                                   ValueBias value_bias = ValueBias::kWithOutput);

// One layer's norms, and its attention over values as they are stored; its maps stay null.
Result<LayerWeights> load_layer_norms(const Checkpoint& checkpoint,
                                      const Architecture& architecture, int32_t layer, Team& team);

}  // namespace tessera
