#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/team.h"
#include "io/checkpoint.h"
#include "io/compressed.h"
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

// The name under which a checkpoint has a tensor: the first BERT checkpoints call a norm's weight
// and bias gamma and beta.
std::string stored_name(const Checkpoint& checkpoint, const std::string& name);

// Whether a head's output is the token embedding: the two are tied and the checkpoint has no other.
bool shares_token_embedding(const Architecture& architecture, const Checkpoint& checkpoint,
                            const TensorFormats& formats);
// The name of the bias of a head's output, as the checkpoint has it; empty: there is none.
std::string head_output_bias(const Architecture& architecture, const Checkpoint& checkpoint,
                             const TensorFormats& formats);

// One layer's norms, and its attention over values as they are stored; its maps stay null.
Result<LayerWeights> load_layer_norms(const Checkpoint& checkpoint,
                                      const Architecture& architecture, int32_t layer, Team& team);

}  // namespace tessera
