#pragma once

#include <vector>

#include "attention/method.h"
#include "base/status.h"
#include "model/weights.h"
#include "plan/plan.h"
#include "pruning/schedule.h"
#include "tessera/model.h"

namespace tessera {

// The plan's cache is of integers where the schedule has bits for it. kInvalidInput where another
// type was asked for.
Status plan_cache(const PruningSchedule& schedule, const LoadOptions& options, Plan& plan);
// [layers]: what generated tokens read by a schedule. Without bits of its own they read every plane
// of a cache that has some.
std::vector<ReadRules> read_rules(const PruningSchedule& schedule, size_t layers);
// Sets what the pages of a decoder's layers hold, and what generated tokens read of them.
void set_cache_rules(const PruningSchedule& schedule, Weights& weights);

}  // namespace tessera
