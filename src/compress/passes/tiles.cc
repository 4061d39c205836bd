#include <fmt/format.h>

#include "compress/pass.h"

namespace tessera {
namespace {

Status check(const Architecture&, const PruneOptions& options) {
  for (const int32_t extent : {options.tile_rows, options.tile_cols}) {
    if (extent >= 1 && extent <= kMaxTileExtent) continue;
    return invalid_input(fmt::format("tile: expected 1 to {} rows and columns, found {} x {}",
                                     kMaxTileExtent, options.tile_rows, options.tile_cols));
  }
  return {};
}

Removed removed(const Item&, const PruneOptions&) { return Removed::kTiles; }
FusedQkv fused(const PruneOptions&) { return FusedQkv::kWhole; }

}  // namespace

const Pass kTilePass = {PruneUnit::kTiles,
                        {"prune-tiles", "Removes the tiles of least norm.",
                         "Chen et al. 2021, E.T.: tensor-tile pruning", "tiles"},
                        check,
                        removed,
                        fused};

}  // namespace tessera
