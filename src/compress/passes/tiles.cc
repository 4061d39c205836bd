#include "compress/pass.h"

namespace tessera {
namespace {

Status check(const Architecture&, const PruneOptions& options) { return check_tile(options); }

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
