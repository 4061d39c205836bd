#include "compress/pass.h"

namespace tessera {
namespace {

Status check(const Architecture&, const PruneOptions&) { return {}; }
Removed removed(const Item&, const PruneOptions&) { return Removed::kOutputs; }
FusedQkv fused(const PruneOptions&) { return FusedQkv::kWhole; }

}  // namespace

const Pass kOutputPass = {PruneUnit::kOutputs,
                          {"prune-outputs", "Removes the whole rows of W in y = W x of least norm.",
                           "row pruning, the baseline of E.T.", "compact"},
                          check,
                          removed,
                          fused};

}  // namespace tessera
