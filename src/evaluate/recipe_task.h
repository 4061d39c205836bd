#pragma once

#include <map>
#include <string>

#include "base/status.h"
#include "evaluate/recipe.h"
#include "io/json_at.h"

namespace tessera {

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
