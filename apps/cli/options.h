#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/parser.h"
#include "cli/pruning_options.h"
#include "cli/trace_file.h"
#include "tessera/model.h"
#include "tessera/status.h"

namespace tessera::cli {

// The names of an enum's values, for an option that is one of them.
template <Named Enum>
std::vector<std::string> choices_of() {
  constexpr auto all = names_of(Enum{});
  return {all.begin(), all.end()};
}

// Exit codes.
inline constexpr int kOk = 0;
inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;

// For verbs that load no weights: MODEL, --threads.
void add_directory_options(Parser& parser, std::string* directory, int* threads);

// The checkpoint directory and how to load it: MODEL, --threads, --dtype, --precompute-vo, --plan,
// and the options of cascade pruning.
struct ModelOptions {
  std::string directory;
  LoadOptions load;  // but its pruning
  PruningOptions pruning;
  std::shared_ptr<TraceFile> trace = {};  // null: none is written
};
void add_model_options(Parser& parser, ModelOptions* options);
// --trace, for verbs that run each of their texts once.
void add_trace_option(Parser& parser, ModelOptions* options);
// For verbs that run decoders: --cache.
void add_cache_option(Parser& parser, ModelOptions* options);

// The values of --dtype.
std::vector<std::string> weight_types();

// Reports a failure as "tessera VERB: sentence" and gives the exit code; kCancelled is an interrupt
// and says nothing.
int finish(const Status& status);
// The same behind a run of the model, whose trace is put in place where that went well.
int finish(const Status& status, const ModelOptions& options);

// Loads with a note on the terminal meanwhile.
Result<std::shared_ptr<Model>> load_model(const ModelOptions& options);

}  // namespace tessera::cli
