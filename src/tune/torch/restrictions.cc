#include "tune/torch/restrictions.h"

#include "compress/prune_units.h"

namespace tessera::training {

Result<std::vector<std::unique_ptr<Restriction>>> make_restrictions(const TuneOptions&,
                                                                    const TrainedModel&) {
  return std::vector<std::unique_ptr<Restriction>>();
}

FusedQkv fused_qkv(const TuneOptions& options) {
  return options.prune ? find_rule(options.prune->units.unit).fused : FusedQkv::kWhole;
}

}  // namespace tessera::training
