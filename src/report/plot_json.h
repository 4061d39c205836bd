#pragma once

#include <string>

#include "base/status.h"
#include "plot/plot.h"

namespace tessera {

// The plot of a JSON text, see docs/verbs/plot.md; errors name the key's path.
Result<Plot> plot_from_json(const std::string& text, const std::string& source);

}  // namespace tessera
