#pragma once

#include "base/status.h"
#include "runtime/model_state.h"
#include "runtime/running.h"
#include "tessera/engine.h"

namespace tessera {

// Bounds what a request can ask for; a pass takes all of its sequences together.
inline constexpr int32_t kMostSequences = 1024;

// The positions that a request takes. The last token is not run.
int64_t positions_of(const Request& request);

// By the request's own schedule or, where it has none, the model's. kUnsupported: bits that the
// model's cache does not have.
Result<RequestPruning> pruning_of(const ModelState& state, const Request& request);

// Whether the model can run the request: its options, ids and length.
Status check_request(const ModelState& state, const Request& request);

}  // namespace tessera
