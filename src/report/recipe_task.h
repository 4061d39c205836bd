#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/json_at.h"

namespace tessera {

struct RecipeTask;

// Values for "{name}" in a recipe's paths, instead of those that its "parameters" give. A path that
// begins with one of these is taken from the current directory, every other from the recipe's.
using RecipeParameters = std::map<std::string, std::string>;

// The paths of a recipe: with its parameters filled in, relative to its folder.
class RecipePaths {
 public:
  // Reads "parameters" of the recipe; those given win, and must be among them.
  static Result<RecipePaths> make(const JsonAt& root, const std::string& folder,
                                  const RecipeParameters& given);
  Result<std::string> path(const JsonAt& at) const;
  Result<std::vector<std::string>> path_list(const JsonAt& at) const;  // one or a list

 private:
  std::string folder_;
  RecipeParameters own_, given_;
};

// An entry of "tasks"; its name is made up where it has none.
Result<RecipeTask> recipe_task(const JsonAt& at, const RecipePaths& paths);

}  // namespace tessera
