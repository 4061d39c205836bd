#include "compress/pass.h"

namespace tessera {
namespace {

using PrecomputeVo = PruneOptions::PrecomputeVo;

// The share that values lose decides what the output matrix loses, so both are chosen together.
Status check(const Architecture&, const PruneOptions& options) {
  TESSERA_RETURN_IF_ERROR(check_tile(options));
  if (options.scope == PruneScope::kMatrix || options.scope == PruneScope::kBalanced) return {};
  return unsupported(
      "attention-aware pruning: expected the scope matrix or balanced, as values and outputs lose "
      "the same share, found another");
}

Removed removed(const Item& item, const PruneOptions& options) {
  const bool precomputed = options.precompute_vo == PrecomputeVo::kYes;
  if (item.role == Role::kValue) return precomputed ? Removed::kNothing : Removed::kOutputsOfHeads;
  if (item.role == Role::kAttentionOutput)
    return precomputed ? Removed::kOutputs : Removed::kInputsOfValues;
  return Removed::kTiles;
}

FusedQkv fused(const PruneOptions&) { return FusedQkv::kParts; }

}  // namespace

const Pass kAttentionAwarePass = {
    PruneUnit::kAttentionAware,
    {"prune-attention-aware",
     "Removes tiles, but of values whole features, or of outputs where V and O are multiplied "
     "beforehand.",
     "Chen et al. 2021, E.T.: attention-aware pruning", "tiles, compact"},
    check,
    removed,
    fused};

}  // namespace tessera
