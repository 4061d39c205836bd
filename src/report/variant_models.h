#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "report/recipe.h"
#include "tessera/model.h"

namespace tessera {

// A plan's JSON with every layer's attention forced to one method.
Result<std::string> force_attention(const std::string& plan_json, const std::string& method,
                                    const std::string& source);

// The models of a recipe's variants: all kept while they fit into half of the memory that there is,
// else one at a time.
class VariantModels {
 public:
  // folder: for plans that are made for variants; it must exist when one is loaded.
  VariantModels(const std::vector<RecipeVariant>& variants, std::string folder);

  Result<std::shared_ptr<Model>> get(size_t variant);
  bool are_kept() const { return are_kept_; }

 private:
  Result<std::shared_ptr<Model>> load(const RecipeVariant& variant) const;

  const std::vector<RecipeVariant>& variants_;
  std::string folder_;
  bool are_kept_;
  std::vector<std::shared_ptr<Model>> models_;
};

}  // namespace tessera
