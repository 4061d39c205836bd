#include "tune/torch/prune_targets.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "compress/prune_units.h"
#include "formats/packed.h"
#include "io/json.h"

namespace tessera::training {
namespace {

class Lister {
 public:
  Lister(const PruneTraining& options, const TrainedModel& model)
      : options_(options), model_(model), rule_(find_rule(options.units.unit)) {
    for (size_t i = 0; i < model.matrices.size(); ++i) places_[model.matrices[i].weight->name] = i;
  }

  Result<PruneTargets> list() const {
    CompressOptions chosen;
    chosen.matrices = options_.matrices;
    chosen.layers = options_.layers;
    TESSERA_ASSIGN_OR_RETURN(const std::vector<Item> items,
                             list_items(model_.architecture, chosen, fused()));
    TESSERA_RETURN_IF_ERROR(check_pairs(rule_, options_.units, items));
    PruneTargets targets;
    for (const Item& item : items) {
      if (!item.selected || rule_.removed(item.role, options_.units) == Removed::kNothing) continue;
      TESSERA_ASSIGN_OR_RETURN(PruneTarget target, target_of(item));
      targets.push_back(target);
    }
    if (targets.empty())
      return invalid_input("pruning: expected options that choose at least one matrix, found none");
    return targets;
  }

 private:
  // As the model was read.
  FusedQkv fused() const {
    const auto is_whole = [](const TrainedModel::Stored& stored) {
      return stored.matrix.item.role == Role::kQkv;
    };
    const bool any = std::any_of(model_.matrices.begin(), model_.matrices.end(), is_whole);
    return any ? FusedQkv::kWhole : FusedQkv::kParts;
  }

  Result<PruneTarget> target_of(const Item& item) const {
    const std::string name = item.name();
    const auto place = places_.find(name);
    if (place == places_.end()) {
      return unsupported(fmt::format(
          "pruning: {}: expected a matrix that the training has apart, found none", quote(name)));
    }
    const Removed removed = rule_.removed(item.role, options_.units);
    const TileShape tile = unit_tile(removed, item, options_.units);
    const PruneTarget target{.name = name,
                             .matrix = place->second,
                             .removed = removed,
                             .tile = tile,
                             .tiles = TileMask::all(tile, item.outputs, item.inputs).tiles()};
    TESSERA_RETURN_IF_ERROR(check(target));
    return target;
  }

  Status check(const PruneTarget& target) const {
    const Parameter& parameter = target.in(model_);
    if (!parameter.is_trained()) {
      return invalid_input(
          fmt::format("pruning: {}: expected a matrix that is trained, found one that is not; "
                      "choose fewer to prune or more to train",
                      quote(parameter.name)));
    }
    TESSERA_RETURN_IF_ERROR(check_integers(target));
    const auto& mask = parameter.mask;
    if (!mask.has_value() ||
        (mask->tile.rows == target.tile.rows && mask->tile.cols == target.tile.cols)) {
      return {};
    }
    return unsupported(fmt::format(
        "pruning: {}: expected a matrix that is whole or has lost units of {} x {} weights, found "
        "one that has lost some of {} x {}, which stay lost; prune the model it was made from",
        quote(parameter.name), target.tile.rows, target.tile.cols, mask->tile.rows,
        mask->tile.cols));
  }

  // What is left of integers is stored without what is pruned where there is such a form.
  Status check_integers(const PruneTarget& target) const {
    const auto& rounding = target.in(model_).rounding;
    const bool has_form = target.removed == Removed::kTiles && rounding &&
                          rounding->precision == Precision::kInt8 && rounding->group == 0;
    if (!rounding || has_form) return {};
    return unsupported(fmt::format(
        "pruning: {}: expected floats, or tiles of int8 with a scale for each output, found {}: "
        "prune the model that this one was quantized from",
        quote(target.name), tessera::name(rounding->precision)));
  }

  const PruneTraining& options_;
  const TrainedModel& model_;
  const PruneRule& rule_;
  std::map<std::string, size_t> places_;  // of matrices, by name
};

}  // namespace

Result<PruneTargets> list_targets(const PruneTraining& options, const TrainedModel& model) {
  return Lister(options, model).list();
}

Weight weight_of(const Parameter& parameter) {
  return {parameter.value.size(0), parameter.value.size(1), values_of(parameter.value)};
}

void clear_pruned(Parameter& parameter) {
  tessera::clear_pruned(*parameter.mask, sizeof(float), parameter.value.data_ptr<float>());
  parameter.value.unsafeGetTensorImpl()->bump_version();
}

Result<torch::Tensor> find_state(const State& state, const std::string& prefix,
                                 const PruneTarget& target) {
  const std::string name = prefix + target.name;
  const auto found = state.find(name);
  if (found == state.end()) return torch::Tensor();
  const torch::Tensor& tensor = found->second;
  if (tensor.dim() == 1 && tensor.size(0) == target.tiles) return tensor.contiguous();
  return invalid_input(
      fmt::format("{} in the checkpoint of the training: expected {} numbers, one a tile, found {}",
                  quote(name), target.tiles, tensor.numel()));
}

}  // namespace tessera::training
