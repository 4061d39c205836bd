#include "cli/options.h"

#include <fmt/format.h>

#include "cli/terminal.h"

namespace tessera::cli {
namespace {

constexpr int64_t kMaxThreads = 4096;

[[noreturn]] void bad_value(const char* name, std::string_view expected, std::string_view found) {
  usage_error(fmt::format("{}: expected {}, found \"{}\"", name, expected, found));
}

WeightType parse_dtype(const std::string& text) {
  if (const auto type = parse_weight_type(text)) return *type;
  bad_value("--dtype", kWeightTypes, text);
}

PrecomputeVo parse_precompute_vo(const std::string& text) {
  if (text == "auto") return PrecomputeVo::kAuto;
  if (text == "on") return PrecomputeVo::kOn;
  if (text == "off") return PrecomputeVo::kOff;
  bad_value("--precompute-vo", "auto, on or off", text);
}

CacheType parse_cache(const std::string& text) {
  if (const auto type = parse_cache_type(text)) return *type;
  bad_value("--cache", kCacheTypes, text);
}

}  // namespace

void add_directory_options(Parser& parser, std::string* directory, int* threads) {
  parser.add_argument("MODEL", directory, "A checkpoint directory");
  parser.add_integer(
      {"--threads", 1, kMaxThreads, "Threads (default: every CPU this process may use)"}, threads);
}

void add_model_options(Parser& parser, ModelOptions* options) {
  add_directory_options(parser, &options->directory, &options->load.threads);
  parser.add_text(
      {"--dtype", "TYPE",
       "Numbers of the weights: auto, f32, bf16, int8, int4, w8 or w4 (default: auto)"},
      [options](const std::string& text) { options->load.weights = parse_dtype(text); });
  parser.add_text(
      {"--precompute-vo", "WHEN",
       "Multiply the values' and the output's matrix beforehand: auto, on or off (default: auto)"},
      [options](const std::string& text) {
        options->load.precompute_vo = parse_precompute_vo(text);
      });
  parser.add_text({"--plan", "FILE", "Force the plan in FILE (see tessera inspect --save-plan)"},
                  [options](const std::string& text) {
                    if (text.empty()) bad_value("--plan", "a file name", text);
                    options->load.plan_file = text;
                  });
}

void add_cache_option(Parser& parser, ModelOptions* options) {
  parser.add_text({"--cache", "TYPE",
                   "Numbers of a decoder's keys and values: f32, bf16 or int8 (default: f32)"},
                  [options](const std::string& text) { options->load.cache = parse_cache(text); });
}

int finish(const Status& status) {
  if (status.ok()) return kOk;
  if (status.code() == StatusCode::kCancelled) return kInterrupted;
  fmt::print(stderr, "tessera: {}\n", status.message());
  return kFailed;
}

Result<std::shared_ptr<Model>> load_model(const ModelOptions& options) {
  const Progress progress(fmt::format("loading {}", options.directory), 0);
  return Model::load(options.directory, options.load);
}

}  // namespace tessera::cli
