#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "tessera/tune.h"

namespace tessera::training {

// Whether the options make sense for a training of so many steps, whatever its model.
Status check_pruning(const PruneTraining& options, int64_t steps);

// How many steps come before all is gone that is to go; of kOneShot none.
int64_t phase_steps(const PruneTraining& options, int64_t steps);

// The numbers of steps in a phase of so many behind which norms are divided by new ones.
std::vector<int64_t> reweighting_milestones(const PruneTraining& options, int64_t phase);

// What share is gone when so many steps are done. Shares ascend to the one that is asked for, which
// the last cut reaches. There is at most one cut a step.
//   kGradual, kMovement: share (1 - (1 - k / cuts)^3) at cut k of 1 .. cuts, k / cuts of the phase
struct Cut {
  int64_t steps = 0;
  double share = 0;
};
std::vector<Cut> pruning_cuts(const PruneTraining& options, int64_t phase);

}  // namespace tessera::training
