#pragma once

#include "base/status.h"
#include "io/checkpoint.h"
#include "model/architecture.h"
#include "plan/plan.h"
#include "tessera/model.h"

namespace tessera {

// The plan that the options name or describe, for a checkpoint's weights on this machine.
Result<Plan> plan_for(const Checkpoint& checkpoint, const Architecture& architecture,
                      const LoadOptions& options);

CacheType cache_type_of(DType dtype);

}  // namespace tessera
