#pragma once

#include <torch/types.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "base/status.h"
#include "formats/tiles.h"
#include "tune/torch/prune_targets.h"

namespace tessera::training {

// By what the units of the targets are chosen: the least go.
class UnitScores {
 public:
  virtual ~UnitScores() = default;
  virtual Status begin(const State& /*restored*/) { return {}; }
  // Looks at the gradients of the loss.
  virtual void observe(const TrainedModel&) {}
  // Those of a target, in the order of its tiles.
  virtual std::vector<double> of(const TrainedModel& model, size_t target) const = 0;
  // Their dimension in the number of weights that a unit has: a norm's is a half, a sum's is 1.
  virtual double dimension() const = 0;
  virtual void add_state(State&) const {}
};

std::unique_ptr<UnitScores> make_magnitude_scores(const PruneTargets& targets);

// sums += sum over each tile of -W dW: how far the steps of the loss moved its weights away from 0
// (Sanh et al. 2020, "Movement pruning", whose scores are those of single weights). W and dW are
// f32 or f64, sums f64 [tiles].
void add_movement(const torch::Tensor& weight, TileShape tile, const torch::Tensor& gradient,
                  torch::Tensor& sums);
// Sums over all steps so far.
std::unique_ptr<UnitScores> make_movement_scores(const PruneTargets& targets);

}  // namespace tessera::training
