#include "tune/torch/pruner.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "compress/prune.h"

namespace tessera::training {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

constexpr const char* kMasks = "pruning.mask.";
constexpr const char* kCuts = "pruning.cuts";

const Item& item_of(const TrainedModel& model, const PruneTarget& target) {
  return target.stored_in(model).matrix.item;
}

TileMask whole_mask(const TrainedModel& model, const PruneTarget& target) {
  const Item& item = item_of(model, target);
  return TileMask::all(target.tile, item.outputs, item.inputs);
}

// The target that reads the values of another one.
size_t reader_of(size_t values, const PruneTargets& targets, const TrainedModel& model) {
  const auto reads = [&](const PruneTarget& target) {
    return target.removed == Removed::kInputsOfValues &&
           item_of(model, target).layer == item_of(model, targets[values]).layer;
  };
  return static_cast<size_t>(std::find_if(targets.begin(), targets.end(), reads) - targets.begin());
}

// Of each target; what is gone is the least.
std::vector<std::vector<double>> scores_of(const PruneTargets& targets, const TrainedModel& model,
                                           const UnitScores& scores) {
  std::vector<std::vector<double>> all;
  for (size_t i = 0; i < targets.size(); ++i) {
    std::vector<double> own = scores.of(model, i);
    if (const auto& mask = targets[i].in(model).mask) {
      for (size_t tile = 0; tile < own.size(); ++tile) {
        if (mask->kept[tile] == 0) own[tile] = -std::numeric_limits<double>::infinity();
      }
    }
    all.push_back(std::move(own));
  }
  return all;
}

// prune_global compares norms of tiles of any size, which grow with the root of the weights.
void scale_to_norms(double dimension, const TileMask& mask, std::vector<double>& scores) {
  for (size_t tile = 0; tile < scores.size(); ++tile) {
    const auto weights = static_cast<double>(tile_weights(mask, static_cast<int64_t>(tile)));
    scores[tile] /= std::pow(weights, dimension - 0.5);
  }
}

void choose_globally(const UnitScores& scores, double share,
                     std::vector<std::vector<double>>& values, std::vector<TileMask>& masks) {
  double weights = 0;
  std::vector<RankedMatrix> ranking;
  for (size_t i = 0; i < masks.size(); ++i) {
    scale_to_norms(scores.dimension(), masks[i], values[i]);
    ranking.push_back({&values[i], &masks[i]});
    weights += static_cast<double>(masks[i].rows * masks[i].cols);
  }
  prune_global(ranking, std::llround(share * weights));
}

// What the pruned features of values are in all rows, their bias, goes on in the output's bias.
void move_biases(const PruneTarget& values, const PruneTarget& output, const TileMask& kept_inputs,
                 const TrainedModel& model) {
  const Parameter* from = values.stored_in(model).bias;
  Parameter* to = output.stored_in(model).bias;
  if (from == nullptr || to == nullptr || !to->is_trained()) return;
  Matrix value_matrix{.item = item_of(model, values), .bias = values_of(from->value)};
  Matrix output_matrix{.item = item_of(model, output),
                       .whole = weight_of(output.in(model)),
                       .mask = kept_inputs,
                       .bias = values_of(to->value)};
  move_value_bias(heads_of(model.architecture.layer(output_matrix.item.layer)), value_matrix,
                  output_matrix);
  to->value.detach().copy_(at::tensor(output_matrix.bias));
}

class Pruner final : public Restriction {
 public:
  Pruner(const PruneOptions& units, PruneTargets targets, std::vector<Cut> cuts,
         std::unique_ptr<UnitScores> scores)
      : units_(units),
        targets_(std::move(targets)),
        cuts_(std::move(cuts)),
        scores_(std::move(scores)),
        masks_(targets_.size()) {}

  Status begin(TrainedModel& model) override {
    TESSERA_RETURN_IF_ERROR(scores_->begin(restored_));
    if (const auto done = restored_.find(kCuts); done != restored_.end())
      next_ = at(
          std::clamp<int64_t>(done->second.item<int64_t>(), 0, static_cast<int64_t>(cuts_.size())));
    for (size_t i = 0; i < targets_.size(); ++i) {
      TESSERA_ASSIGN_OR_RETURN(const torch::Tensor kept,
                               find_state(restored_, kMasks, targets_[i]));
      if (!kept.defined()) continue;
      TileMask mask = whole_mask(model, targets_[i]);
      const torch::Tensor bytes = kept.to(at::kByte);
      std::copy_n(bytes.data_ptr<uint8_t>(), mask.kept.size(), mask.kept.begin());
      keep(std::move(mask), i, model);
    }
    restored_.clear();
    cut(model, 0);
    return {};
  }

  double add_gradients(TrainedModel& model, int64_t) override {
    if (next_ < cuts_.size()) scores_->observe(model);
    return 0;
  }

  Status after_step(TrainedModel& model, int64_t step) override {
    // An optimizer goes on moving what was moved before.
    for (const PruneTarget& target : targets_) {
      if (target.in(model).mask.has_value()) clear_pruned(target.in(model));
    }
    cut(model, step + 1);
    return {};
  }

  State state() const override {
    State state = {{kCuts, at::tensor(static_cast<int64_t>(next_))}};
    for (size_t i = 0; i < targets_.size(); ++i) {
      if (masks_[i].defined()) state[kMasks + targets_[i].name] = masks_[i];
    }
    scores_->add_state(state);
    return state;
  }
  Status restore(const State& state) override {
    restored_ = state;
    return {};
  }

 private:
  void cut(TrainedModel& model, int64_t steps_done) {
    for (; next_ < cuts_.size() && cuts_[next_].steps <= steps_done; ++next_)
      prune(model, cuts_[next_].share);
  }

  void prune(TrainedModel& model, double share) {
    std::vector<TileMask> masks = choose_masks(units_, targets_, model, *scores_, share);
    for (size_t i = 0; i < targets_.size(); ++i) {
      if (targets_[i].removed != Removed::kOutputsOfHeads) continue;
      const size_t reader = reader_of(i, targets_, model);
      move_biases(targets_[i], targets_[reader], masks[reader], model);
    }
    for (size_t i = 0; i < targets_.size(); ++i) {
      if (masks[i].kept_tiles() < masks[i].tiles()) keep(std::move(masks[i]), i, model);
    }
  }

  void keep(TileMask mask, size_t target, TrainedModel& model) {
    masks_[target] = at::tensor(mask.kept, at::kByte);
    Parameter& parameter = targets_[target].in(model);
    parameter.mask = std::move(mask);
    model.matrices[targets_[target].matrix].matrix.removed = targets_[target].removed;
    clear_pruned(parameter);
  }

  const PruneOptions units_;
  const PruneTargets targets_;
  const std::vector<Cut> cuts_;
  const std::unique_ptr<UnitScores> scores_;
  size_t next_ = 0;                   // of the cuts
  std::vector<torch::Tensor> masks_;  // a target: [tiles], 1 where kept; undefined: all are
  State restored_;
};

}  // namespace

std::vector<TileMask> choose_masks(const PruneOptions& units, const PruneTargets& targets,
                                   const TrainedModel& model, const UnitScores& scores,
                                   double share) {
  std::vector<std::vector<double>> values = scores_of(targets, model, scores);
  std::vector<TileMask> masks;
  for (const PruneTarget& target : targets) masks.push_back(whole_mask(model, target));
  if (units.scope == PruneScope::kGlobal) {
    choose_globally(scores, share, values, masks);
  } else {
    for (size_t i = 0; i < targets.size(); ++i) {
      if (targets[i].removed == Removed::kInputsOfValues) continue;
      if (targets[i].removed != Removed::kOutputsOfHeads) {
        prune_share(values[i], share, units.scope, masks[i]);
        continue;
      }
      const size_t reader = reader_of(i, targets, model);
      const Item& item = item_of(model, targets[i]);
      ValueMasks pair = prune_value_features(heads_of(model.architecture.layer(item.layer)), share,
                                             values[i], item, item_of(model, targets[reader]));
      masks[i] = std::move(pair.values);
      masks[reader] = std::move(pair.output);
    }
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    const auto& before = targets[i].in(model).mask;
    for (size_t tile = 0; before.has_value() && tile < before->kept.size(); ++tile)
      masks[i].kept[tile] = static_cast<uint8_t>(masks[i].kept[tile] & before->kept[tile]);
  }
  return masks;
}

std::unique_ptr<Restriction> make_pruner(const PruneOptions& units, PruneTargets targets,
                                         std::vector<Cut> cuts,
                                         std::unique_ptr<UnitScores> scores) {
  return std::make_unique<Pruner>(units, std::move(targets), std::move(cuts), std::move(scores));
}

}  // namespace tessera::training
