#pragma once

#include <string>
#include <vector>

#include "tessera/machine.h"
#include "tessera/model.h"

namespace tessera::cli {

// Adds what a profile counted to a sum of profiles.
void add_profile(const std::vector<OperationProfile>& part, std::vector<OperationProfile>* sum);

// How near an operation comes to the machine's limits: the time that its arithmetic at the f32 peak
// or its bytes at the read bandwidth would take, whichever is more, over its time. Above 1 where
// the bytes come from a cache.
struct Roof {
  double share_of_limit = 0;
  bool is_memory_bound = false;
};
Roof roof_of(const OperationProfile& operation, const MachineSpeeds& speeds);

// A table of a pass: `passes` were counted.
std::string roofline_table(const std::vector<OperationProfile>& profile,
                           const MachineSpeeds& speeds, int64_t passes);

}  // namespace tessera::cli
