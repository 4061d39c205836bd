#pragma once

#include <string>

#include "base/status.h"
#include "tessera/tune.h"

namespace tessera::training {

// tessera::tune, with libtorch. What libtorch throws becomes a status.
Result<TuneReport> run_training(const std::string& source, const std::string& target,
                                const TuneOptions& options);

}  // namespace tessera::training
