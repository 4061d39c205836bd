#include "compress/pass.h"

namespace tessera {
namespace {

Status check(const Architecture&, const PruneOptions&) { return {}; }
Removed removed(const Item&, const PruneOptions&) { return Removed::kInputs; }
FusedQkv fused(const PruneOptions&) { return FusedQkv::kWhole; }

}  // namespace

const Pass kInputPass = {
    PruneUnit::kInputs,
    {"prune-inputs", "Removes the whole columns of W in y = W x of least norm.",
     "column pruning, the baseline of E.T.", "compact"},
    check,
    removed,
    fused};

}  // namespace tessera
