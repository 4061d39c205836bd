#pragma once

#include "tessera/export.h"

// The version of these headers. Before 1.0 a new minor version may change the interface; a new
// patch does not.
#define TESSERA_VERSION_MAJOR 0
#define TESSERA_VERSION_MINOR 1
#define TESSERA_VERSION_PATCH 0

namespace tessera {

// The version of the library that runs, as "0.1.0".
TESSERA_API const char* version();

}  // namespace tessera
