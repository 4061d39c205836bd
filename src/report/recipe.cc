#include "report/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "attention/method.h"
#include "base/guarded.h"
#include "io/json_at.h"
#include "io/mapped_file.h"
#include "report/recipe_task.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostRecipeBytes = 4 << 20;
constexpr size_t kMostVariants = 64, kMostTasks = 32, kMostWorkloads = 32;
constexpr size_t kMostNameBytes = 200;
constexpr int64_t kMostBatch = 4096, kMostTokens = 1 << 24, kMostThreads = 4096;

// A name is a cell of a table and a label of a plot: one line.
Result<std::string> name_of(const JsonAt& at) {
  TESSERA_ASSIGN_OR_RETURN(std::string name, at.text());
  const bool has_control = std::any_of(name.begin(), name.end(),
                                       [](char c) { return static_cast<unsigned char>(c) < 0x20; });
  if (name.empty() || name.size() > kMostNameBytes || has_control)
    return at.wrong(fmt::format("a name of 1 to {} bytes on one line", kMostNameBytes));
  return name;
}

// The options of a variant: one row each. More kinds of variants are more rows.
struct VariantOption {
  const char* key;
  Status (*read)(const JsonAt& at, const RecipePaths& paths, RecipeVariant& variant);
};

Status read_name(const JsonAt& at, const RecipePaths&, RecipeVariant& variant) {
  TESSERA_ASSIGN_OR_RETURN(variant.name, name_of(at));
  return {};
}
Status read_model(const JsonAt& at, const RecipePaths& paths, RecipeVariant& variant) {
  TESSERA_ASSIGN_OR_RETURN(variant.model, paths.path(at));
  return {};
}
Status read_dtype(const JsonAt& at, const RecipePaths&, RecipeVariant& variant) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, at.text());
  const std::optional<WeightType> type = parse<WeightType>(text);
  if (!type) return at.wrong(names<WeightType>());
  variant.dtype = *type;
  return {};
}
Status read_cache(const JsonAt& at, const RecipePaths&, RecipeVariant& variant) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, at.text());
  variant.cache = parse<CacheType>(text);
  return variant.cache ? Status() : at.wrong(names<CacheType>());
}
Status read_series(const JsonAt& at, const RecipePaths&, RecipeVariant& variant) {
  TESSERA_ASSIGN_OR_RETURN(variant.series, name_of(at));
  return {};
}
Status read_threads(const JsonAt& at, const RecipePaths&, RecipeVariant& variant) {
  TESSERA_ASSIGN_OR_RETURN(const int64_t threads, at.integer(1, kMostThreads));
  variant.threads = static_cast<int>(threads);
  return {};
}
Status read_attention(const JsonAt& at, const RecipePaths&, RecipeVariant& variant) {
  std::vector<std::string> names;
  std::vector<const char*> pointers;
  for (const AttentionMethod* method : attention_methods()) names.emplace_back(method->name());
  for (const std::string& name : names) pointers.push_back(name.c_str());
  TESSERA_ASSIGN_OR_RETURN(const size_t which, at.one_of(pointers));
  variant.attention = names[which];
  return {};
}
Status read_plan(const JsonAt& at, const RecipePaths& paths, RecipeVariant& variant) {
  TESSERA_ASSIGN_OR_RETURN(variant.plan, paths.path(at));
  return {};
}

Status read_pruning(const JsonAt& at, const RecipePaths&, RecipeVariant& variant) {
  TESSERA_ASSIGN_OR_RETURN(variant.pruning, pruning_of(at));
  return {};
}

constexpr VariantOption kVariantOptions[] = {
    {"name", read_name},   {"model", read_model},     {"dtype", read_dtype},
    {"cache", read_cache}, {"threads", read_threads}, {"attention", read_attention},
    {"plan", read_plan},   {"series", read_series},   {"pruning", read_pruning},
};

// A variant for each way to compress its model, named by the values of the lists.
Result<std::vector<RecipeVariant>> compressed_variants(const JsonAt& at, const RecipePaths& paths,
                                                       const RecipeVariant& variant) {
  TESSERA_ASSIGN_OR_RETURN(std::vector<RecipeCompression> all, compressions_of(at, paths));
  std::vector<RecipeVariant> variants;
  for (RecipeCompression& one : all) {
    RecipeVariant& made = variants.emplace_back(variant);
    if (variant.name.empty()) {
      made.name = one.label;
    } else if (all.size() > 1) {
      made.name += " " + one.values;
    }
    made.compress = std::move(one);
  }
  return variants;
}

// One variant, or one for each combination of the lists in its "compress".
Result<std::vector<RecipeVariant>> variants_of(const JsonAt& at, const RecipePaths& paths,
                                               const std::string& model) {
  std::vector<const char*> keys;
  for (const VariantOption& option : kVariantOptions) keys.push_back(option.key);
  keys.push_back("compress");
  TESSERA_RETURN_IF_ERROR(at.known(keys));
  const std::optional<JsonAt> compress = at.find("compress");
  if (!compress) TESSERA_RETURN_IF_ERROR(at.need("name").status());
  RecipeVariant variant{.model = model};
  for (const VariantOption& option : kVariantOptions) {
    const std::optional<JsonAt> member = at.find(option.key);
    if (member) TESSERA_RETURN_IF_ERROR(option.read(*member, paths, variant));
  }
  if (variant.model.empty()) return at.need("model").status();
  if (!variant.plan.empty() && variant.dtype != WeightType::kAuto) {
    return at.failure(StatusCode::kInvalidInput,
                      "expected a plan or a dtype, which the plan names too, found both");
  }
  if (!variant.plan.empty() && variant.cache) {
    return at.failure(StatusCode::kInvalidInput,
                      "expected a plan or a cache, which the plan names too, found both");
  }
  if (!compress) return std::vector{std::move(variant)};
  return compressed_variants(*compress, paths, variant);
}

Result<RecipeWorkload> workload_of(const JsonAt& at) {
  TESSERA_RETURN_IF_ERROR(at.known({"name", "batch", "tokens", "new_tokens"}));
  RecipeWorkload workload;
  TESSERA_ASSIGN_OR_RETURN(workload.batch, at.integer_or("batch", 1, 1, kMostBatch));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt tokens, at.need("tokens"));
  TESSERA_ASSIGN_OR_RETURN(workload.tokens, tokens.integer(1, kMostTokens));
  TESSERA_ASSIGN_OR_RETURN(workload.new_tokens, at.integer_or("new_tokens", 0, 2, kMostTokens));
  workload.name = workload.new_tokens > 0
                      ? fmt::format("decode {} x {}", workload.batch, workload.tokens)
                      : fmt::format("{} x {}", workload.batch, workload.tokens);
  const std::optional<JsonAt> name = at.find("name");
  if (name) {
    TESSERA_ASSIGN_OR_RETURN(workload.name, name_of(*name));
  }
  return workload;
}

// A name may stand once in its list.
template <typename Named>
Status add(const JsonAt& at, Named item, std::vector<Named>& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].name == item.name) {
      return at.failure(
          StatusCode::kInvalidInput,
          fmt::format("expected a name of its own, found {}, which [{}] has", quote(item.name), i));
    }
  }
  items.push_back(std::move(item));
  return {};
}

// Where the recipe only says how to compress its model, the model as it is becomes the base.
Status read_variant_list(const JsonAt& root, const RecipePaths& paths, const std::string& model,
                         Recipe& recipe) {
  if (root.find("compress") && !root.find("variants")) {
    recipe.variants.push_back({.name = "as it is", .model = model});
    return {};
  }
  TESSERA_ASSIGN_OR_RETURN(const JsonAt all, root.need("variants"));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, all.list(1, kMostVariants));
  for (const JsonAt& each : list) {
    TESSERA_ASSIGN_OR_RETURN(std::vector<RecipeVariant> variants, variants_of(each, paths, model));
    for (RecipeVariant& variant : variants)
      TESSERA_RETURN_IF_ERROR(add(each, std::move(variant), recipe.variants));
  }
  return {};
}

Status read_variants(const JsonAt& root, const RecipePaths& paths, Recipe& recipe) {
  std::string model;
  const std::optional<JsonAt> shared = root.find("model");
  if (shared) {
    TESSERA_ASSIGN_OR_RETURN(model, paths.path(*shared));
  }
  TESSERA_RETURN_IF_ERROR(read_variant_list(root, paths, model, recipe));
  const std::optional<JsonAt> sweep = root.find("compress");
  if (sweep) {
    if (model.empty()) return root.need("model").status();
    TESSERA_ASSIGN_OR_RETURN(std::vector<RecipeVariant> variants,
                             compressed_variants(*sweep, paths, {.model = model}));
    for (RecipeVariant& variant : variants)
      TESSERA_RETURN_IF_ERROR(add(*sweep, std::move(variant), recipe.variants));
  }
  if (recipe.variants.size() > kMostVariants) {
    return root.failure(StatusCode::kInvalidInput,
                        fmt::format("expected at most {} variants with every combination, found {}",
                                    kMostVariants, recipe.variants.size()));
  }
  const std::optional<JsonAt> base = root.find("base");
  if (!base) return {};
  std::vector<const char*> names;
  for (const RecipeVariant& variant : recipe.variants) names.push_back(variant.name.c_str());
  TESSERA_ASSIGN_OR_RETURN(recipe.base, base->one_of(names));
  return {};
}

Status read_workloads(const JsonAt& root, Recipe& recipe) {
  const std::optional<JsonAt> all = root.find("workloads");
  if (!all) return {};
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, all->list(0, kMostWorkloads));
  for (const JsonAt& each : list) {
    TESSERA_ASSIGN_OR_RETURN(RecipeWorkload workload, workload_of(each));
    TESSERA_RETURN_IF_ERROR(add(each, std::move(workload), recipe.workloads));
  }
  return {};
}

Status read_tasks(const JsonAt& root, const RecipePaths& paths, Recipe& recipe) {
  const std::optional<JsonAt> all = root.find("tasks");
  if (!all) return {};
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, all->list(0, kMostTasks));
  for (const JsonAt& each : list) {
    TESSERA_ASSIGN_OR_RETURN(RecipeTask task, recipe_task(each, paths));
    const std::optional<JsonAt> name = each.find("name");
    if (name) {
      TESSERA_ASSIGN_OR_RETURN(task.name, name_of(*name));
    }
    TESSERA_RETURN_IF_ERROR(add(each, std::move(task), recipe.tasks));
  }
  return {};
}

Status read_timing(const JsonAt& root, Recipe& recipe) {
  RecipeTiming& timing = recipe.timing;
  const std::optional<JsonAt> at = root.find("timing");
  if (at) {
    TESSERA_RETURN_IF_ERROR(at->known({"rounds", "seconds", "samples"}));
    TESSERA_ASSIGN_OR_RETURN(timing.rounds, at->integer_or("rounds", timing.rounds, 1, 1000));
    TESSERA_ASSIGN_OR_RETURN(timing.seconds, at->number_or("seconds", timing.seconds, 0, 3600));
    TESSERA_ASSIGN_OR_RETURN(timing.samples, at->integer_or("samples", timing.samples, 1, 100000));
  }
  const std::optional<JsonAt> bootstrap = root.find("bootstrap");
  if (!bootstrap) return {};
  BootstrapOptions& options = recipe.bootstrap;
  TESSERA_RETURN_IF_ERROR(bootstrap->known({"resamples", "confidence", "seed"}));
  TESSERA_ASSIGN_OR_RETURN(const int64_t resamples,
                           bootstrap->integer_or("resamples", options.resamples, 0, 1'000'000));
  options.resamples = static_cast<int32_t>(resamples);
  TESSERA_ASSIGN_OR_RETURN(options.confidence,
                           bootstrap->number_or("confidence", options.confidence, 0.5, 0.9999));
  TESSERA_ASSIGN_OR_RETURN(const int64_t seed, bootstrap->integer_or("seed", 0, 0, INT64_MAX));
  options.seed = static_cast<uint64_t>(seed);
  return {};
}

Result<Recipe> read_root(const JsonAt& root, const std::string& source, const std::string& folder,
                         const RecipeParameters& parameters) {
  TESSERA_RETURN_IF_ERROR(
      root.known({"title", "model", "parameters", "tasks", "workloads", "variants", "compress",
                  "base", "timing", "bootstrap", "fetch"}));
  TESSERA_ASSIGN_OR_RETURN(const RecipePaths paths, RecipePaths::make(root, folder, parameters));
  Recipe recipe;
  recipe.source = source;
  TESSERA_ASSIGN_OR_RETURN(recipe.title, root.text_or("title", "Accuracy, latency and size"));
  TESSERA_ASSIGN_OR_RETURN(recipe.fetch, root.text_or("fetch", ""));
  TESSERA_RETURN_IF_ERROR(read_variants(root, paths, recipe));
  TESSERA_RETURN_IF_ERROR(read_tasks(root, paths, recipe));
  TESSERA_RETURN_IF_ERROR(read_workloads(root, recipe));
  TESSERA_RETURN_IF_ERROR(read_timing(root, recipe));
  if (recipe.tasks.empty() && recipe.workloads.empty())
    return root.failure(StatusCode::kInvalidInput, "expected tasks or workloads, found neither");
  return recipe;
}

Status expect_file(const Recipe& recipe, const std::string& where, const std::string& path) {
  std::error_code error;
  if (fs::exists(path, error) && !error) return {};
  const std::string fetch =
      recipe.fetch.empty() ? "" : "; what the recipe needs is fetched by: " + recipe.fetch;
  return not_found(fmt::format("{}: {}: expected a file at {}, found none{}", recipe.source, where,
                               path, fetch));
}

Status check_files(const Recipe& recipe) {
  for (size_t i = 0; i < recipe.variants.size(); ++i) {
    const RecipeVariant& variant = recipe.variants[i];
    const std::string where = fmt::format("variants[{}]", i);
    TESSERA_RETURN_IF_ERROR(
        expect_file(recipe, where + ".model", (fs::path(variant.model) / "config.json").string()));
    if (!variant.plan.empty())
      TESSERA_RETURN_IF_ERROR(expect_file(recipe, where + ".plan", variant.plan));
    if (variant.compress && !variant.compress->options.calibration.text_file.empty()) {
      TESSERA_RETURN_IF_ERROR(expect_file(recipe, where + ".compress.calibrate",
                                          variant.compress->options.calibration.text_file));
    }
  }
  for (size_t i = 0; i < recipe.tasks.size(); ++i) {
    const std::string where = fmt::format("tasks[{}]", i);
    for (const std::string& file : files_of(recipe.tasks[i].task))
      TESSERA_RETURN_IF_ERROR(expect_file(recipe, where, file));
    if (recipe.tasks[i].reference.empty()) continue;
    const fs::path reference = recipe.tasks[i].reference;
    TESSERA_RETURN_IF_ERROR(
        expect_file(recipe, where + ".reference", (reference / "config.json").string()));
  }
  return {};
}

}  // namespace

Result<Recipe> recipe_from_json(const std::string& text, const std::string& source,
                                const std::string& folder, const RecipeParameters& parameters) {
  return guarded(source, [&]() -> Result<Recipe> {
    TESSERA_ASSIGN_OR_RETURN(const Json root, parse_json(text, source));
    return read_root(JsonAt(root, source), source, folder, parameters);
  });
}

Result<Recipe> read_recipe(const std::string& path, const RecipeParameters& parameters) {
  return guarded(path, [&]() -> Result<Recipe> {
    TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMostRecipeBytes));
    TESSERA_ASSIGN_OR_RETURN(
        Recipe recipe,
        recipe_from_json(text, path, fs::path(path).parent_path().string(), parameters));
    TESSERA_RETURN_IF_ERROR(check_files(recipe));
    return recipe;
  });
}

void make_quick(Recipe& recipe) {
  constexpr int64_t kExamples = 100, kCalibrationTokens = 1024;
  recipe.timing = {.rounds = 2, .seconds = 0.05, .samples = 2};
  recipe.bootstrap.resamples = std::min(recipe.bootstrap.resamples, 200);
  for (RecipeVariant& variant : recipe.variants) {
    if (!variant.compress) continue;
    int64_t& tokens = variant.compress->options.calibration.tokens;
    tokens = std::min(tokens, kCalibrationTokens);
  }
  for (RecipeTask& task : recipe.tasks) {
    int64_t& most = task.task.max_examples;
    most = most == 0 ? kExamples : std::min(most, kExamples);
  }
}

std::vector<std::string> files_of(const EvaluationTask& task) {
  std::vector<std::string> files;
  for (const DataFile* data : {&task.data, &task.train, &task.dev, &task.retrieval.queries})
    files.insert(files.end(), data->paths.begin(), data->paths.end());
  for (const std::string& file : {task.retrieval.judgements, task.data_to_text.predictions}) {
    if (!file.empty()) files.push_back(file);
  }
  return files;
}

}  // namespace tessera
