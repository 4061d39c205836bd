#pragma once

#include "io/config.h"
#include "tessera/model.h"

namespace tessera {

// Reads generation_config.json; an empty one says nothing. What is wrong in it is told in
// GenerationDefaults::wrong, since it matters only to whoever uses it.
GenerationDefaults read_generation_defaults(const Config& config);

}  // namespace tessera
