#pragma once

#include <string>
#include <vector>

#include "tessera/export.h"

namespace tessera {

// A schedule of cascade pruning that somebody published (docs/cascade.md). Its name in place of a
// schedule's JSON asks for it, as in LoadOptions::pruning.
struct PruningPreset {
  std::string name = {};
  std::string description = {};  // one sentence: of which model, and where it is from
  std::string schedule = {};     // JSON
};

TESSERA_API std::vector<PruningPreset> pruning_presets();

}  // namespace tessera
