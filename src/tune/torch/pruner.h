#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "formats/tile_mask.h"
#include "tessera/tune.h"
#include "tune/torch/prune_targets.h"
#include "tune/torch/pruning_schedule.h"
#include "tune/torch/restriction.h"
#include "tune/torch/unit_scores.h"

namespace tessera::training {

// What each target keeps when a share is gone, exactly: of the matrix, of each row of tiles or of
// all targets, as the options say. What was gone before stays gone, of a larger share too.
std::vector<TileMask> choose_masks(const PruneOptions& units, const PruneTargets& targets,
                                   const TrainedModel& model, const UnitScores& scores,
                                   double share);

// Makes the cuts and keeps what they prune at 0, whatever the optimizer remembers of it: masks of
// parameters, and what is said to be removed of matrices.
std::unique_ptr<Restriction> make_pruner(const PruneOptions& units, PruneTargets targets,
                                         std::vector<Cut> cuts, std::unique_ptr<UnitScores> scores);

}  // namespace tessera::training
