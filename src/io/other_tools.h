#pragma once

#include <string>

#include "base/status.h"

namespace tessera {

// Refuses what holds no weights that Tessera reads because another tool made it, before anything
// else is looked at: models that were quantized (by what config.json says, or a file that the tool
// leaves beside it), GGUF files, and adapters. path: a directory or a file. kUnsupported is one
// sentence with the tool and the way out, and the model to take instead where a file names it.
Status check_other_tools(const std::string& path);

}  // namespace tessera
