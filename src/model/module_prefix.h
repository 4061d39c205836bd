#pragma once

#include <string>

#include "base/status.h"
#include "io/config.h"

namespace tessera {

// What the names of the modules of a model begin with in its family's classes with a head, as
// "bert."; those of classes without a head, and some checkpoints, lack it.
Result<std::string> module_prefix(const Config& config);

}  // namespace tessera
