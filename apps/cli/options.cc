#include "cli/options.h"

#include <fmt/format.h>

#include <chrono>

#include "cli/terminal.h"

namespace tessera::cli {
namespace {

constexpr int64_t kMaxThreads = 4096;

}  // namespace

void add_directory_options(Parser& parser, std::string* directory, int* threads) {
  parser.group("Model");
  parser.add_argument(
      "MODEL", directory,
      "A checkpoint directory, or OWNER/NAME in the cache of the Hugging Face hub.");
  parser.add_integer({"-t,--threads", 1, kMaxThreads,
                      "Use N threads (default: one for each CPU this process may use)."},
                     threads);
}

void add_model_options(Parser& parser, ModelOptions* options) {
  add_directory_options(parser, &options->directory, &options->load.threads);
  parser.add_choice(
      {"--dtype", "TYPE",
       "Keep the weights as TYPE: auto (as stored), f32, bf16, int8, int4, w8 or w4 "
       "(default: auto).",
       weight_types()},
      [options](const std::string& text) { options->load.weights = *parse<WeightType>(text); });
  parser.add_choice({"--precompute-vo", "WHEN",
                     "Multiply the value matrix by the output matrix once, at load time: auto, on "
                     "or off (default: auto, where it is faster).",
                     choices_of<PrecomputeVo>()},
                    [options](const std::string& text) {
                      options->load.precompute_vo = *parse<PrecomputeVo>(text);
                    });
  parser.add_text({"--plan", "FILE",
                   "Run the plan in FILE instead of choosing one; tessera inspect --save-plan "
                   "writes it."},
                  &options->load.plan_file);
  add_pruning_options(parser, &options->pruning);
}

void add_trace_option(Parser& parser, ModelOptions* options) {
  parser.group("Output");
  parser.add_text(
      {"--trace", "FILE",
       "Write which tokens each layer had, and how important they were, to FILE, as "
       "lines of JSON."},
      [options](const std::string& text) { options->trace = std::make_shared<TraceFile>(text); });
}

void add_cache_option(Parser& parser, ModelOptions* options) {
  parser.group("Model");
  parser.add_choice(
      {"--cache", "TYPE",
       "Keep a decoder's keys and values as TYPE: f32, bf16 or int8 (default: f32).",
       choices_of<CacheType>()},
      [options](const std::string& text) { options->load.cache = *parse<CacheType>(text); });
}

std::vector<std::string> weight_types() { return choices_of<WeightType>(); }

int finish(const Status& status) {
  if (status.ok()) return kOk;
  if (status.code() == StatusCode::kCancelled) return Interrupt::exit_code();
  complain(status.message());
  return kFailed;
}

int finish(const Status& status, const ModelOptions& options) {
  return finish(status.ok() && options.trace != nullptr ? options.trace->finish() : status);
}

Result<std::shared_ptr<Model>> load_model(const ModelOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  LoadOptions load = options.load;
  load.pruning = options.pruning.text;
  if (options.trace != nullptr) {
    if (Status status = options.trace->open(); !status.ok()) return status;
    load.on_pruning = [trace = options.trace](const PruningRecord& record) { trace->take(record); };
  }
  Result<std::shared_ptr<Model>> model = [&] {
    const Progress progress(fmt::format("loading {}", options.directory), 0);
    return Model::load(options.directory, load);
  }();
  if (!model.ok()) return with_pruning_source(model.status(), options.pruning);
  if (options.trace != nullptr) {
    if (Status status = options.trace->add_model((*model)->info()); !status.ok()) return status;
  }
  if (verbosity() != Verbosity::kVerbose) return model;
  const ModelInfo& info = (*model)->info();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  note(fmt::format("loaded {} in {:.2f} s: {}, {} parameters, {} as {}, {}", info.directory,
                   seconds.count(), info.architecture, human_count(info.parameters),
                   human_bytes(info.prepared_bytes), info.weight_type,
                   counted(info.threads, "threads")));
  return model;
}

}  // namespace tessera::cli
