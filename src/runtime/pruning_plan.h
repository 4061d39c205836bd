#pragma once

#include <cstdint>
#include <vector>

#include "runtime/model_state.h"

namespace tessera {

// What a schedule leaves of a layer, and the part of the dense work that this is.
struct LayerKept {
  int32_t tokens = 0;  // of the text that is read
  int32_t heads = 0;
  int32_t keys = 0, values = 0;  // that a token generated behind it reads
  double work = 1;               // of reading
};

// Work is counted in multiplications, not in time: with rows n, heads h of H and keys k in a layer,
//   linear maps n (FFN + h/H (QKV + O)), attention h n k (key size + value size).
struct PruningPlan {
  std::vector<LayerKept> layers;
  double reading = 1;     // of a text of so many tokens
  double generating = 1;  // the token behind it
  double cache = 1;       // bytes of keys and values that this token reads
};

// tokens: at least 1. What tasks and heads protect beyond the schedule is left out.
PruningPlan plan_pruning(const ModelState& state, const PruningSchedule& schedule, int32_t tokens);

}  // namespace tessera
