#include "compress/prune_units.h"

#include <fmt/format.h>

#include <algorithm>

namespace tessera {
namespace {

template <Removed kRemoved>
Removed always(Role, const PruneOptions&) {
  return kRemoved;
}

// E.T.'s rule. Values lose whole features, or, where V and O are multiplied beforehand, O does.
Removed attention_aware(Role role, const PruneOptions& options) {
  const bool precomputed = options.precompute_vo == PruneOptions::PrecomputeVo::kYes;
  if (role == Role::kValue) return precomputed ? Removed::kNothing : Removed::kOutputsOfHeads;
  if (role == Role::kAttentionOutput)
    return precomputed ? Removed::kOutputs : Removed::kInputsOfValues;
  return Removed::kTiles;
}

constexpr PruneRule kRules[] = {
    {PruneUnit::kTiles, "prune-tiles", "Removes the tiles of least norm.",
     "Chen et al. 2021, E.T.: tensor-tile pruning", "tiles", FusedQkv::kWhole,
     always<Removed::kTiles>},
    {PruneUnit::kElements, "prune-elements", "Removes the single weights of least magnitude.",
     "Han et al. 2015: irregular pruning", "csr", FusedQkv::kWhole, always<Removed::kElements>},
    {PruneUnit::kOutputs, "prune-outputs", "Removes the whole rows of W in y = W x of least norm.",
     "row pruning, the baseline of E.T.", "compact", FusedQkv::kWhole, always<Removed::kOutputs>},
    {PruneUnit::kInputs, "prune-inputs", "Removes the whole columns of W in y = W x of least norm.",
     "column pruning, the baseline of E.T.", "compact", FusedQkv::kWhole, always<Removed::kInputs>},
    {PruneUnit::kAttentionAware, "prune-attention-aware",
     "Removes tiles, but of values whole features, or of outputs where V and O are multiplied "
     "beforehand.",
     "Chen et al. 2021, E.T.: attention-aware pruning", "tiles, compact", FusedQkv::kParts,
     attention_aware, PruneRule::Shares::kEqual},
};

}  // namespace

std::span<const PruneRule> prune_rules() { return kRules; }

const PruneRule& find_rule(PruneUnit unit) {
  const auto* found = std::find_if(std::begin(kRules), std::end(kRules),
                                   [&](const PruneRule& rule) { return rule.unit == unit; });
  return found == std::end(kRules) ? kRules[0] : *found;
}

bool uses_tile(const PruneRule& rule, const PruneOptions& options) {
  return rule.removed(Role::kFfn, options) == Removed::kTiles;
}

Status check_rule(const PruneRule& rule, const PruneOptions& options) {
  for (const int32_t extent : {options.tile_rows, options.tile_cols}) {
    if (!uses_tile(rule, options) || (extent >= 1 && extent <= kMaxTileExtent)) continue;
    return invalid_input(fmt::format("tile: expected 1 to {} rows and columns, found {} x {}",
                                     kMaxTileExtent, options.tile_rows, options.tile_cols));
  }
  const bool equal = options.scope == PruneScope::kMatrix || options.scope == PruneScope::kBalanced;
  if (equal || rule.shares == PruneRule::Shares::kAny) return {};
  // The share that values lose decides what the output matrix loses, so both are chosen together.
  return unsupported(
      "attention-aware pruning: expected the scope matrix or balanced, as values and outputs lose "
      "the same share, found another");
}

Status check_pairs(const PruneRule& rule, const PruneOptions& options,
                   const std::vector<Item>& items) {
  const auto removed = [&](const Item& item) { return rule.removed(item.role, options); };
  const auto is_of_pair = [&](const Item& item) {
    return item.selected &&
           (removed(item) == Removed::kOutputsOfHeads || removed(item) == Removed::kInputsOfValues);
  };
  for (const Item& item : items) {
    if (!is_of_pair(item)) continue;
    const auto twin = std::find_if(items.begin(), items.end(), [&](const Item& other) {
      return other.layer == item.layer && removed(other) != removed(item) && is_of_pair(other);
    });
    if (twin != items.end()) continue;
    return invalid_input(
        "matrices: attention-aware pruning expected both value and attention_output or neither, "
        "found one");
  }
  return {};
}

TileShape unit_tile(Removed removed, const Item& item, const PruneOptions& options) {
  const auto outputs = static_cast<int32_t>(item.outputs);
  const auto inputs = static_cast<int32_t>(item.inputs);
  switch (removed) {
    case Removed::kElements:
      return {1, 1};
    case Removed::kOutputs:
    case Removed::kOutputsOfHeads:
      return {1, inputs};
    case Removed::kInputs:
    case Removed::kInputsOfValues:
      return {outputs, 1};
    default:
      if (item.order == MatrixOrder::kOutputRows) return {options.tile_rows, options.tile_cols};
      return {options.tile_cols, options.tile_rows};
  }
}

}  // namespace tessera
