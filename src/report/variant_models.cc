#include "report/variant_models.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/guarded.h"
#include "base/memory.h"
#include "io/mapped_file.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

int64_t bytes_of_weights(const std::string& directory) {
  std::error_code error;
  int64_t bytes = 0;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() != ".safetensors") continue;
    const uintmax_t size = entry->file_size(error);
    if (!error) bytes += static_cast<int64_t>(size);
  }
  return bytes;
}

// f16 is widened to f32, hence twice the files.
bool fit_into_memory(const std::vector<RecipeVariant>& variants) {
  int64_t bytes = 0;
  for (const RecipeVariant& variant : variants) bytes += 2 * bytes_of_weights(variant.directory());
  return bytes < available_memory_bytes() / 2;
}

}  // namespace

Result<std::string> force_attention(const std::string& plan_json, const std::string& method,
                                    const std::string& source) {
  return guarded(source, [&]() -> Result<std::string> {
    nlohmann::json plan = nlohmann::json::parse(plan_json);
    for (nlohmann::json& layer : plan.at("layers"))
      layer["attention"] = {{{"method", method}, {"why", "forced by the recipe"}}};
    return plan.dump();
  });
}

VariantModels::VariantModels(const std::vector<RecipeVariant>& variants, std::string folder)
    : variants_(variants),
      folder_(std::move(folder)),
      are_kept_(fit_into_memory(variants)),
      models_(variants.size()) {}

Result<std::shared_ptr<Model>> VariantModels::get(size_t variant) {
  if (models_[variant] != nullptr) return models_[variant];
  if (!are_kept_) models_.assign(variants_.size(), nullptr);
  Result<std::shared_ptr<Model>> model = load(variants_[variant]);
  if (!model.ok()) {
    return Status(model.status().code(),
                  fmt::format("variant {}: {}", variants_[variant].name, model.status().message()));
  }
  models_[variant] = *model;
  return model;
}

Result<std::shared_ptr<Model>> VariantModels::load(const RecipeVariant& variant) const {
  LoadOptions options{.threads = variant.threads,
                      .weights = variant.dtype,
                      .cache = variant.cache,
                      .plan_file = variant.plan,
                      .pruning = variant.pruning};
  Result<std::shared_ptr<Model>> model = Model::load(variant.directory(), options);
  if (!model.ok() || variant.attention.empty()) return model;
  TESSERA_ASSIGN_OR_RETURN(
      const std::string plan,
      force_attention((*model)->plan_json(), variant.attention, variant.directory()));
  model->reset();
  const fs::path file = fs::path(folder_) / fmt::format("plan-{}.json", getpid());
  TESSERA_RETURN_IF_ERROR(write_file_atomically(file.string(), plan));
  options.weights = WeightType::kAuto;  // the plan names it, and the cache
  options.cache.reset();
  options.plan_file = file.string();
  model = Model::load(variant.directory(), options);
  std::error_code ignored;
  fs::remove(file, ignored);
  return model;
}

}  // namespace tessera
