#pragma once

#include <memory>
#include <vector>

#include "base/status.h"
#include "compress/item.h"
#include "tessera/tune.h"
#include "tune/torch/parameters.h"
#include "tune/torch/restriction.h"

namespace tessera::training {

// The restrictions that the options ask for, in the order in which they act in each step; of a
// model of which it is chosen what is trained. kInvalidInput or kUnsupported where they make no
// sense for it.
Result<std::vector<std::unique_ptr<Restriction>>> make_restrictions(const TuneOptions& options,
                                                                    const TrainedModel& model);

// How the options need queries, keys and values that one tensor holds to be read.
FusedQkv fused_qkv(const TuneOptions& options);

}  // namespace tessera::training
