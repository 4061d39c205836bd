#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "compress/matrix.h"
#include "formats/tile_mask.h"
#include "tessera/tune.h"
#include "tune/torch/parameters.h"

namespace tessera::training {

// A matrix that loses units while it is trained, by its place among the model's matrices.
struct PruneTarget {
  std::string name;  // of the parameter
  size_t matrix = 0;
  Removed removed = Removed::kTiles;
  TileShape tile;  // of W [outputs, inputs]
  int64_t tiles = 0;

  const TrainedModel::Stored& stored_in(const TrainedModel& model) const {
    return model.matrices[matrix];
  }
  Parameter& in(const TrainedModel& model) const { return *stored_in(model).weight; }
};
using PruneTargets = std::vector<PruneTarget>;

// The matrices that the options prune, in the order in which the model has them. kInvalidInput or
// kUnsupported where they choose none, one that is not trained or not known, or one that cannot
// lose such units.
Result<PruneTargets> list_targets(const PruneTraining& options, const TrainedModel& model);

// A copy of the weights as they are now.
Weight weight_of(const Parameter& parameter);

// Sets what the parameter's mask does not keep to 0.
void clear_pruned(Parameter& parameter);

// What a restriction remembers of each target, under prefix + the name of the tensor.
using State = std::map<std::string, torch::Tensor>;
// The entry of a target, with a number for each of its tiles; kInvalidInput where it is something
// else. Undefined: there is none.
Result<torch::Tensor> find_state(const State& state, const std::string& prefix,
                                 const PruneTarget& target);

}  // namespace tessera::training
