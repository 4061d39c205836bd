#include "tune/torch/restrictions.h"

#include <algorithm>
#include <utility>

#include "compress/prune_units.h"
#include "tune/torch/group_lasso.h"
#include "tune/torch/prune_targets.h"
#include "tune/torch/pruner.h"
#include "tune/torch/pruning_schedule.h"

namespace tessera::training {

Result<std::vector<std::unique_ptr<Restriction>>> make_restrictions(const TuneOptions& options,
                                                                    const TrainedModel& model) {
  using Method = PruneTraining::Method;
  std::vector<std::unique_ptr<Restriction>> restrictions;
  if (!options.prune.has_value()) return restrictions;
  const PruneTraining& pruning = *options.prune;
  TESSERA_RETURN_IF_ERROR(check_pruning(pruning, options.steps));
  TESSERA_ASSIGN_OR_RETURN(const PruneTargets targets, list_targets(pruning, model));
  const int64_t phase = phase_steps(pruning, options.steps);
  if (pruning.method == Method::kReweighted || pruning.method == Method::kGroupLasso)
    restrictions.push_back(make_group_lasso(pruning, phase, targets));
  restrictions.push_back(make_pruner(pruning.units, targets, pruning_cuts(pruning, phase),
                                     pruning.method == Method::kMovement
                                         ? make_movement_scores(targets)
                                         : make_magnitude_scores(targets)));
  return restrictions;
}

FusedQkv fused_qkv(const TuneOptions& options) {
  // A part of a tensor may have an update of its own.
  const bool names_parts = std::any_of(
      options.train.begin(), options.train.end(),
      [](const std::string& name) { return name == "query" || name == "key" || name == "value"; });
  if (options.lora && names_parts) return FusedQkv::kParts;
  return options.prune ? find_rule(options.prune->units.unit).fused : FusedQkv::kWhole;
}

}  // namespace tessera::training
