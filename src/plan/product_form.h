#pragma once

#include <cstdint>

#include "linear/choice.h"
#include "plan/cost_model.h"

namespace tessera {

// Whether products of pruned weights run as they are pruned or written out, unless that is forced:
// kAuto takes them as they are pruned where that is predicted to be faster by more than the
// prediction may be wrong.
enum class FormRule { kAuto, kPruned, kDense };

// rows: of a pass, by which the time is predicted. A kernel that TESSERA_KERNEL names is taken
// whatever the prediction, which the reason tells with its numbers.
FormChoice choose_form(FormRule rule, const PrunedProduct& product, int64_t rows,
                       const CostMachine& machine);

}  // namespace tessera
