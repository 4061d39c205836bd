#pragma once

#include <span>

#include "base/status.h"
#include "compress/item.h"
#include "formats/tiles.h"
#include "model/architecture.h"
#include "tessera/compress.h"

namespace tessera {

// What a pass removes of a matrix.
enum class Removed {
  kNothing,
  kTiles,
  kElements,
  kOutputs,
  kOutputsOfHeads,  // of values: equally many of every key/value head
  kInputs,
  // Of the output matrix: the inputs that come from the outputs that its layer's values lose.
  kInputsOfValues,
};

struct PassInfo {
  const char* name;      // in provenance
  const char* summary;   // one sentence
  const char* citation;  // where the method is from
  const char* writes;    // formats
};

// A way to prune: one file in passes/ and one row in pass.cc. Everything else, scores, choice,
// repair, checks and reports, is the pipeline's.
struct Pass {
  PruneUnit unit;
  PassInfo info;
  // Whether the options make sense for the model.
  Status (*check)(const Architecture& architecture, const PruneOptions& options);
  // Of an item that is selected.
  Removed (*removed)(const Item& item, const PruneOptions& options);
  FusedQkv (*fused)(const PruneOptions& options);
};

std::span<const Pass* const> passes();
const Pass& find_pass(PruneUnit unit);

Status check_tile(const PruneOptions& options);

// Bytes that a pass leaves of an item, about, when it reaches the options' share.
int64_t estimated_bytes(const Pass& pass, const Item& item, const PruneOptions& options,
                        int64_t value_bytes);

// The tile of W [outputs, inputs] that a unit of an item is; for tiles the options' tile, turned
// where the checkpoint stores inputs as rows.
TileShape unit_tile(Removed removed, const Item& item, const PruneOptions& options);

extern const Pass kTilePass, kElementPass, kOutputPass, kInputPass, kAttentionAwarePass;

}  // namespace tessera
