#include "compress/pass.h"

namespace tessera {
namespace {

Status check(const Architecture&, const PruneOptions&) { return {}; }
Removed removed(const Item&, const PruneOptions&) { return Removed::kElements; }
FusedQkv fused(const PruneOptions&) { return FusedQkv::kWhole; }

}  // namespace

const Pass kElementPass = {PruneUnit::kElements,
                           {"prune-elements", "Removes the single weights of least magnitude.",
                            "Han et al. 2015: irregular pruning", "csr"},
                           check,
                           removed,
                           fused};

}  // namespace tessera
