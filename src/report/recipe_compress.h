#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "io/json_at.h"
#include "report/recipe_task.h"
#include "tessera/compress.h"

namespace tessera {

// One model to be made of a variant's: what "compress" of a recipe says, with one value of each of
// its lists.
struct RecipeCompression {
  CompressOptions options;
  std::string key;     // what decides the result, as one line
  std::string values;  // of its lists: "0.3, 16x1"
  std::string label;   // the same with their names; of all options where there is no list
};

// A schedule of cascade pruning as LoadOptions::pruning takes it: an object, the name of a
// published one, or "none".
Result<std::string> pruning_of(const JsonAt& at);

// A list is a sweep, and several lists give every combination, the last one's values changing
// fastest. Options are those of tessera compress, with "_" for "-".
Result<std::vector<RecipeCompression>> compressions_of(const JsonAt& at, const RecipePaths& paths);

}  // namespace tessera
