#pragma once

#include <span>
#include <vector>

#include "base/status.h"
#include "compress/item.h"
#include "compress/matrix.h"
#include "formats/tiles.h"
#include "tessera/compress.h"

namespace tessera {

// What a unit of pruning is: one row of a table. Scores, choice and repair are the same for all.
struct PruneRule {
  PruneUnit unit;
  const char* name;  // in provenance
  const char* summary;
  const char* citation;
  const char* writes;  // formats
  FusedQkv fused;
  Removed (*removed)(Role role, const PruneOptions& options);
  // Scopes whose shares may differ from matrix to matrix.
  enum class Shares { kAny, kEqual } shares = Shares::kAny;
};

std::span<const PruneRule> prune_rules();
const PruneRule& find_rule(PruneUnit unit);

// Whether matrices lose tiles of the options' shape.
bool uses_tile(const PruneRule& rule, const PruneOptions& options);
// Whether the options make sense for the unit.
Status check_rule(const PruneRule& rule, const PruneOptions& options);

// Whether of the selected items values and the output matrices that read them lose features
// together.
Status check_pairs(const PruneRule& rule, const PruneOptions& options,
                   const std::vector<Item>& items);

// The tile of W [outputs, inputs] that a unit of an item is; for tiles the options' tile, turned
// where the checkpoint stores inputs as rows.
TileShape unit_tile(Removed removed, const Item& item, const PruneOptions& options);

}  // namespace tessera
