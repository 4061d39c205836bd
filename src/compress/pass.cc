#include "compress/pass.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "compress/mask.h"

namespace tessera {
namespace {

constexpr const Pass* kPasses[] = {&kTilePass, &kElementPass, &kOutputPass, &kInputPass,
                                   &kAttentionAwarePass};

constexpr int64_t kIndexBytes = 2;  // I16 in files, as matrices beyond 32767 columns are rare

}  // namespace

std::span<const Pass* const> passes() { return kPasses; }

const Pass& find_pass(PruneUnit unit) {
  const auto* found = std::find_if(std::begin(kPasses), std::end(kPasses),
                                   [&](const Pass* pass) { return pass->unit == unit; });
  return found == std::end(kPasses) ? kTilePass : **found;
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

Status check_tile(const PruneOptions& options) {
  for (const int32_t extent : {options.tile_rows, options.tile_cols}) {
    if (extent >= 1 && extent <= kMaxTileExtent) continue;
    return invalid_input(fmt::format("tile: expected 1 to {} rows and columns, found {} x {}",
                                     kMaxTileExtent, options.tile_rows, options.tile_cols));
  }
  return {};
}

int64_t estimated_bytes(const Pass& pass, const Item& item, const PruneOptions& options,
                        int64_t value_bytes) {
  const int64_t dense = item.outputs * item.inputs * value_bytes;
  const Removed removed = item.selected ? pass.removed(item, options) : Removed::kNothing;
  if (removed == Removed::kNothing) return dense;
  const TileShape tile = unit_tile(removed, item, options);
  const int64_t units =
      ((item.outputs + tile.rows - 1) / tile.rows) * ((item.inputs + tile.cols - 1) / tile.cols);
  const int64_t kept = units - pruned_count(options.share, units);
  return std::min(dense, kept * (tile.rows * tile.cols * value_bytes + kIndexBytes));
}

}  // namespace tessera
