#include "cli/options.h"

#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <cmath>

#include "cli/inputs.h"
#include "cli/terminal.h"

namespace tessera::cli {
namespace {

constexpr int64_t kMaxThreads = 4096;

// An average, or a share for each layer; the library checks their range.
std::string parse_keep_tokens(std::string_view text) {
  std::string shares;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    double share = 0;
    const char* last = text.data() + end;
    const auto [stop, error] = std::from_chars(text.data() + begin, last, share);
    if (error != std::errc() || stop != last || !std::isfinite(share))
      bad_value("--keep-tokens", "a share, or one for each layer as 1,0.8,0.5", text);
    shares += fmt::format("{}{}", shares.empty() ? "" : ", ", share);
    begin = end + 1;
  }
  const bool is_list = text.find(',') != std::string_view::npos;
  return fmt::format(R"({{"tokens": {}}})", is_list ? "[" + shares + "]" : shares);
}

void take_pruning(const std::string& file, ModelOptions* options) {
  Result<std::string> schedule = read_text(file);
  if (!schedule.ok()) usage_error(schedule.status().message());
  // For the library no text is no pruning.
  if (schedule->empty()) {
    usage_error(fmt::format("--pruning: expected a schedule in {}, found an empty file", file));
  }
  options->load.pruning = *std::move(schedule);
  options->pruning_file = file;
}

// The library has the text of the schedule alone and calls it "pruning".
Status with_pruning_file(const Status& status, const std::string& file) {
  constexpr std::string_view kSchedule = "pruning: ";
  if (file.empty() || !status.message().starts_with(kSchedule)) return status;
  return {status.code(), fmt::format("{}: {}", file, status.message().substr(kSchedule.size()))};
}

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
                  [options](const std::string& text) {
                    if (text.empty()) bad_value("--plan", "a file name", text);
                    options->load.plan_file = text;
                  });
}

void add_pruning_options(Parser& parser, ModelOptions* options) {
  parser.group("Model");
  const Option keep_tokens = parser.add_text(
      {"--keep-tokens", "SHARES",
       "Let tokens leave that few others attend to: keep this share on average, or one "
       "share for each layer, as 1,0.8,0.5."},
      [options](const std::string& text) { options->load.pruning = parse_keep_tokens(text); });
  parser
      .add_text({"--pruning", "FILE", "Let tokens leave as the schedule in FILE says."},
                [options](const std::string& text) { take_pruning(text, options); })
      .excludes({keep_tokens});
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

Result<std::shared_ptr<Model>> load_model(const ModelOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  Result<std::shared_ptr<Model>> model = [&] {
    const Progress progress(fmt::format("loading {}", options.directory), 0);
    return Model::load(options.directory, options.load);
  }();
  if (!model.ok()) return with_pruning_file(model.status(), options.pruning_file);
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
