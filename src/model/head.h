#pragma once

#include "base/team.h"
#include "model/execution.h"

namespace tessera {

// What follows the last layer, on the head rows of the states [rows of the input, hidden_size],
// which all members have come to the end of: logits = output(norm(activation(transform(x)))), as
// much of it as the model has, and cap * tanh(scale * logits / cap) of a causal language model that
// has these. Logits are whole when all members are done.
void run_head(const Execution& execution, const float* states, Team::Member& member);

}  // namespace tessera
