#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "report/recipe_compress.h"
#include "tessera/evaluate.h"
#include "tessera/model.h"

// What a report is made of, as a file says it: docs/verbs/report.md.
namespace tessera {

// How a variant is loaded. `model` and `plan` are paths that can be opened.
struct RecipeVariant {
  std::string name;
  // What is made of the model before it is loaded, and where that stands once it is made.
  std::optional<RecipeCompression> compress = {};
  std::string made = {};
  std::string series;  // the line of the plot that it is a point of; empty: a labelled point
  std::string model;
  WeightType dtype = WeightType::kAuto;
  std::optional<CacheType> cache = {};
  int threads = 0;        // 0: every CPU
  std::string attention;  // the method to force; empty: as planned
  std::string plan;       // a file; empty: choose
  std::string pruning;    // as of LoadOptions

  const std::string& directory() const { return made.empty() ? model : made; }
};

struct RecipeTask {
  std::string name;    // "stsb test"
  std::string metric;  // the one that the plot shows; empty: the task's first
  EvaluationTask task;
  // For agreement, the model to agree with; the base variant where it is empty.
  std::string reference;
  std::string key;  // what the recipe says of it, but for its name and metric, as one line
};

// What is timed: passes over `batch` sequences of `tokens`; with new_tokens > 1, which decoders
// can, the steps that generate so many behind them.
struct RecipeWorkload {
  std::string name;
  int64_t batch = 1;
  int64_t tokens = 128;
  int64_t new_tokens = 0;
};

struct RecipeTiming {
  int64_t rounds = 5;
  double seconds = 1;   // of a variant's turn, at least
  int64_t samples = 3;  // of a variant's turn, at least
};

struct Recipe {
  std::string source;  // for messages
  std::string fetch;   // a command that gets the files; for messages
  std::string title;
  std::vector<RecipeTask> tasks;
  std::vector<RecipeWorkload> workloads;
  std::vector<RecipeVariant> variants;  // at least one
  size_t base = 0;                      // the variant that the others are compared with
  RecipeTiming timing;
  BootstrapOptions bootstrap;
};

// folder: the recipe's. Nothing is opened.
Result<Recipe> recipe_from_json(const std::string& text, const std::string& source,
                                const std::string& folder, const RecipeParameters& parameters);
// Reads the file and checks that what it names is there.
Result<Recipe> read_recipe(const std::string& path, const RecipeParameters& parameters);
// Everything small and short: to see that a recipe works.
void make_quick(Recipe& recipe);

// Every file that an evaluation reads.
std::vector<std::string> files_of(const EvaluationTask& task);

}  // namespace tessera
