#include "tessera/compress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/prune_unit_options.h"
#include "cli/pruning_options.h"
#include "cli/search_keep.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "cli/training.h"
#include "cli/verbs.h"
#include "tessera/evaluate.h"
#include "tessera/tune.h"

namespace tessera::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr Synopsis kSynopsis = {
    "compress", "MODEL -o OUT [--prune-tiles SHARE] [--quantize PRECISION] [--keep-tokens SHARES]",
    "Prunes or quantizes the matrices of a model and writes a new directory that every verb takes. "
    "It removes whole tiles, which then take no memory and no time, or, for comparison, single "
    "weights or whole rows and columns, and rounds what stays dense to 8 or 4 bits. With a text to "
    "calibrate on, it removes what matters least there, fits the rest to it, and lets rounding "
    "errors cancel each other. It also saves a schedule of cascade pruning with the model, by "
    "which "
    "tokens and heads leave while it runs.",
    "  tessera compress MODEL -o small --prune-tiles 0.5 --calibrate texts.txt --repair\n"
    "  tessera compress MODEL -o small --quantize w4 --calibrate texts.txt\n"
    "  tessera compress MODEL -o small --prune-tiles 0.5 --quantize int8 --calibrate texts.txt "
    "--repair\n"
    "  tessera compress MODEL -o small --prune-tiles 0.8 --scope allocated --calibrate texts.txt\n"
    "  tessera compress MODEL -o small --prune-tiles 0.5 --calibrate texts.txt --repair --task "
    "stsb --data glue\n"
    "  tessera compress MODEL -o small --prune-tiles 0.5 --heal texts.txt\n"};

struct Options {
  std::string source;
  std::optional<std::string> target;
  CompressOptions compress;
  TuneOptions heal;  // with data, where that is asked for
  PruningOptions pruning;
  SearchKeepOptions search;
  std::optional<std::string> task, data, split;
  bool json = false;
};

std::string percent(double value) {
  return std::isnan(value) ? "-" : fmt::format("{:.1f}%", 100 * value);
}
std::string times(double value) {
  return std::isnan(value) || value <= 0 ? "-" : fmt::format("{:.2f}x", value);
}
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(); }

// "tiles", "int8 tiles", "int8".
std::string form_of(const MatrixReport& matrix) {
  if (matrix.precision.empty()) return matrix.format;
  return matrix.format == "quantized" ? matrix.precision : matrix.precision + " " + matrix.format;
}

std::string matrix_table(const CompressReport& report) {
  constexpr Align kRight = Align::kRight;
  std::vector<std::vector<std::string>> rows;
  for (const MatrixReport& matrix : report.matrices) {
    rows.push_back({matrix.name, form_of(matrix), human_bytes(matrix.bytes), percent(matrix.share),
                    percent(matrix.weight_error), percent(matrix.output_error),
                    times(matrix.expected_speedup), times(matrix.measured_speedup)});
  }
  return format_table({{"matrix"},
                       {"format"},
                       {"size", kRight},
                       {"pruned", kRight},
                       {"weight error", kRight},
                       {"output error", kRight},
                       {"fewer FLOPs", kRight},
                       {"measured", kRight}},
                      rows) +
         "\n";
}

// "4.0 times as small"; nothing where a file grew or stayed.
std::string ratio(double before, double after, const char* how) {
  return before > after && after > 0 ? fmt::format(", {:.2f} times as {}", before / after, how)
                                     : "";
}

std::string speed_text(const ModelSpeed& before, const ModelSpeed& after) {
  std::string text =
      fmt::format("Reading {} tokens takes {:.1f} ms, {:.1f} ms before{}, measured here.\n",
                  after.tokens, 1e3 * after.pass_seconds, 1e3 * before.pass_seconds,
                  ratio(before.pass_seconds, after.pass_seconds, "fast"));
  if (after.tokens_per_second > 0) {
    text += fmt::format("It generates {:.1f} tokens per second, {:.1f} before{}.\n",
                        after.tokens_per_second, before.tokens_per_second,
                        ratio(after.tokens_per_second, before.tokens_per_second, "fast"));
  }
  return text;
}

// The mean over the matrices by their size; NaN where none was measured.
double mean_output_error(const CompressReport& report) {
  double sum = 0, weight = 0;
  for (const MatrixReport& matrix : report.matrices) {
    if (std::isnan(matrix.output_error)) continue;
    sum += matrix.output_error * static_cast<double>(matrix.dense_bytes);
    weight += static_cast<double>(matrix.dense_bytes);
  }
  return sum / weight;
}

// What it cost, what was trained of it, where the result is and what it gained.
std::string to_text(const CompressReport& report, const std::optional<TuneReport>& healed,
                    const std::string& target) {
  std::string text;
  if (report.share > 0)
    text += percent(report.share) + " of the weights of the chosen matrices are removed.\n";
  if (const double error = mean_output_error(report); !std::isnan(error))
    text += "What matrices compute differs by " + percent(error) +
            " on the calibration text, on average" + (healed ? ", before the training.\n" : ".\n");
  if (healed) text += training_text(*healed);
  text += fmt::format("Written to {}: {}, {} before{}.\n", target, human_bytes(report.bytes_after),
                      human_bytes(report.bytes_before),
                      ratio(static_cast<double>(report.bytes_before),
                            static_cast<double>(report.bytes_after), "small"));
  if (report.speed_before && report.speed_after)
    text += speed_text(*report.speed_before, *report.speed_after);
  return text;
}

Json to_json(const std::optional<ModelSpeed>& speed) {
  if (!speed) return {};
  return {{"tokens", speed->tokens},
          {"pass_ms", number(1e3 * speed->pass_seconds)},
          {"tokens_per_second",
           speed->tokens_per_second > 0 ? Json(speed->tokens_per_second) : Json()}};
}

Json to_json(const CompressReport& report) {
  Json json = {{"share", number(report.share)},
               {"bytes_before", report.bytes_before},
               {"bytes_after", report.bytes_after},
               {"speed_before", to_json(report.speed_before)},
               {"speed_after", to_json(report.speed_after)},
               {"next", report.next},
               {"matrices", Json::array()}};
  for (const MatrixReport& matrix : report.matrices) {
    json["matrices"].push_back(
        {{"name", matrix.name},
         {"format", matrix.format},
         {"precision", matrix.precision.empty() ? Json() : Json(matrix.precision)},
         {"dense_bytes", matrix.dense_bytes},
         {"bytes", matrix.bytes},
         {"share", number(matrix.share)},
         {"weight_error", number(matrix.weight_error)},
         {"output_error", number(matrix.output_error)},
         {"expected_speedup", number(matrix.expected_speedup)},
         {"measured_speedup", number(matrix.measured_speedup)}});
  }
  return json;
}

// The whole model at a task.
Result<Evaluation> evaluate_model(const EvaluationTask& task, const std::string& directory,
                                  int32_t threads, Steps& steps) {
  Result<std::shared_ptr<Model>> model = Model::load(directory, {.threads = threads});
  if (!model.ok()) return model.status();
  return evaluate(*model, task,
                  {.on_progress = [&](const std::string& what, int64_t done, int64_t total) {
                    return steps(what, done, total);
                  }});
}

struct BeforeAndAfter {
  Evaluation before, after;
};

std::string to_text(const BeforeAndAfter& task) {
  constexpr Align kRight = Align::kRight;
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < task.before.metrics.size() && i < task.after.metrics.size(); ++i) {
    const double before = task.before.metrics[i].value, after = task.after.metrics[i].value;
    rows.push_back({task.before.metrics[i].name, fmt::format("{:.4f}", before),
                    fmt::format("{:.4f}", after), fmt::format("{:+.4f}", after - before)});
  }
  return "\n" +
         format_table({{task.before.task}, {"before", kRight}, {"after", kRight}, {"", kRight}},
                      rows);
}

// What is there to print when all is done.
struct Results {
  CompressReport report;
  std::optional<TuneReport> healed;
  std::optional<KeepSearch> search;
  std::optional<BeforeAndAfter> task;
};

Status print(const Options& options, const Results& results) {
  const CompressReport& report = results.report;
  const std::optional<BeforeAndAfter>& task = results.task;
  std::string text = results.search ? to_text(*results.search, options.search) : "";
  if (verbosity() == Verbosity::kVerbose) text += matrix_table(report);
  text += to_text(report, results.healed, *options.target);
  if (task) text += to_text(*task);
  if (options.json) {
    Json json = to_json(report);
    if (results.healed) json["heal"] = Json::parse(training_json(*results.healed), nullptr, false);
    if (results.search)
      json["search"] = Json::parse(search_json(*results.search, options.search), nullptr, false);
    if (task) {
      json["before"] = Json::parse(evaluation_json(task->before), nullptr, false);
      json["after"] = Json::parse(evaluation_json(task->after), nullptr, false);
    }
    text = json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  }
  Output out;
  Status status = out.write(text);
  if (status.ok()) status = out.flush();
  if (!status.ok() || options.json) return status;
  for (const std::string& command : report.next) note("next: " + command);
  return {};
}

// Accuracy falls much faster without a text, which is to be known while the work can be stopped.
void warn_of_magnitude(const CompressOptions& options) {
  if (!options.prune || options.prune->share == 0 ||
      options.prune->score != PruneScore::kMagnitude || !options.calibration.text_file.empty())
    return;
  warn(
      "weights are chosen by their size alone, which costs far more accuracy than "
      "--calibrate texts.txt --repair");
}

SearchKeepJob search_job(const Options& options) {
  return {.model = options.source,
          .target = *options.target,
          .task = options.task.value_or(""),
          .data = options.data.value_or(""),
          .threads = options.compress.calibration.threads};
}

// A search takes long, so that what keeps its result from being written is said before it.
Result<KeepSearch> find_schedule(const Options& options, const SearchKeepJob& job, Steps& steps) {
  std::error_code ignored;
  if (options.compress.existing == Existing::kRefuse &&
      std::filesystem::exists(*options.target, ignored)) {
    return invalid_input(fmt::format(
        "{}: expected a directory that is not there yet, found one; --force replaces a model that "
        "Tessera wrote",
        *options.target));
  }
  return run_search(job, options.search, steps);
}

// Compresses, and heals where that is asked for.
Status make(const Options& options, CompressOptions compression, Steps& steps, Results& results) {
  // What is wrong with options, source or target is all that is said of a run that does not begin:
  // its first step reads the calibration text, its second one works.
  int steps_begun = 0;
  TrainingProgress progress;
  const bool heals = !options.heal.data.empty();
  compression.on_progress = [&](const std::string& what, int64_t done, int64_t total) {
    progress.clear();
    if (++steps_begun == 2 && !heals) warn_of_magnitude(options.compress);
    return steps(what, done, total);
  };
  if (!heals) {
    Result<CompressReport> report = compress(options.source, *options.target, compression);
    if (report.ok()) results.report = std::move(report).value();
    return report.status();
  }
  TuneOptions training = options.heal;
  training.on_progress = [&](const TuneProgress& at) {
    steps.clear();
    return progress(at);
  };
  Result<HealReport> report = heal(options.source, *options.target, compression, training);
  progress.clear();
  if (report.status().code() == StatusCode::kCancelled) {
    steps.clear();
    note(report.status().message());
  }
  if (!report.ok()) return report.status();
  results.report = std::move(report->compressed);
  results.healed = std::move(report->trained);
  return {};
}

Status run(const Options& options) {
  const Interrupt interrupt;
  Steps steps;
  const int32_t threads = options.compress.calibration.threads;
  std::optional<EvaluationTask> task;
  std::optional<Evaluation> before, after;
  if (options.task) {
    Result<EvaluationTask> named =
        named_task(*options.task, *options.data, options.split.value_or("test"));
    if (!named.ok()) return named.status();
    task = std::move(named).value();
    // What is wrong with a task is found out before the work of hours, not after it.
    Result<Evaluation> evaluation = evaluate_model(*task, options.source, threads, steps);
    if (!evaluation.ok()) return evaluation.status();
    before = std::move(evaluation).value();
  }
  CompressOptions compress_options = options.compress;
  std::optional<KeepSearch> search;
  const SearchKeepJob job = search_job(options);
  if (options.search.is_wanted) {
    Result<KeepSearch> found = find_schedule(options, job, steps);
    if (!found.ok()) return found.status();
    search = std::move(found).value();
    compress_options.pruning = search->schedule;
  }
  Results results;
  if (const Status made = make(options, compress_options, steps, results); !made.ok())
    return with_pruning_source(made, options.pruning);
  // The directory is there now: what it is gets printed whatever becomes of the evaluation.
  Status failure;
  if (task) {
    Result<Evaluation> evaluation = evaluate_model(*task, *options.target, threads, steps);
    if (evaluation.ok()) {
      after = std::move(evaluation).value();
    } else {
      failure = evaluation.status();
    }
  } else if (Interrupt::requested()) {
    failure = Status(StatusCode::kCancelled, "measuring was cancelled");
  }
  steps.clear();
  if (search) forget_search(job);
  results.search = std::move(search);
  if (after) results.task = {std::move(*before), std::move(*after)};
  const Status printed = print(options, results);
  return failure.ok() ? printed : failure;
}

// What the command line says, as options of the library.
class CommandLine {
 public:
  explicit CommandLine(Options& options) : options_(options) {
    add_directory_options(parser_, &options.source, &options.compress.calibration.threads);
    parser_.group("Output");
    parser_
        .add_text({"-o,--output", "OUT", "Write the model to OUT, a new directory."},
                  &options.target)
        .required();
    parser_.add_flag("--force", &force_,
                     "Replace OUT if it is a model that Tessera wrote, with no files of others.");
    parser_.add_flag("--json", &options.json, "Print JSON, which has a row for each matrix.");
    add_pruning();
    add_quantization();
    add_pruning_options(parser_, &options.pruning);
    add_calibration();
    add_healing();
    add_evaluation();
    add_search_options(parser_, &options.search);
    parser_.then([this] { complete(); });
  }

  std::optional<int> parse(const Arguments& arguments) { return parser_.parse(arguments); }

 private:
  void add_pruning() {
    parser_.group("Pruning");
    units_.add_units(
        parser_,
        {"Let units compete for removal within each matrix (matrix), each row of tiles (balanced) "
         "or the whole model (global), or allocate shares by error (allocated) (default: matrix).",
         choices_of<PruneScope>()});
    parser_.add_choice({"--score", "SCORE",
                        "Remove what is smallest (magnitude) or what matters least to the "
                        "calibration text (calibrated, the default with --calibrate).",
                        choices_of<PruneScore>()},
                       &score_);
    parser_.add_flag("--repair", &repair_,
                     "Fit what is left to the calibration text, by least squares.");
    units_.add_precompute(parser_);
    parser_.add_integer({"--kv-heads", 1, 4096,
                         "Average the heads of keys and values so that N are left, to be trained; "
                         "without any other change."},
                        &kv_heads_);
    parser_.add_text(
        {"--merge-adapter", "DIR",
         "Add the updates of the LoRA adapter in DIR, which tessera tune or PEFT made, "
         "to the weights; without any other change."},
        &merge_adapter_);
  }

  void add_quantization() {
    parser_.group("Quantization");
    parser_.add_choice({"--quantize",
                        "PRECISION",
                        "Round what stays dense to int8, int4, w8 or w4; tessera run --dtype "
                        "takes the same words.",
                        {"int8", "int4", "w8", "w4"}},
                       &quantize_);
    parser_.add_integer({"--group", 0, 1 << 20,
                         "Share a scale among N inputs; 0 means all (default: 0 for int8, 64 for "
                         "w8, else 32)."},
                        &group_);
    parser_.add_choice({"--rounding", "ROUNDING",
                        "Round to the nearest value (nearest) or so that errors cancel, as GPTQ "
                        "does (compensated, the default with --calibrate).",
                        choices_of<Rounding>()},
                       &rounding_);
    parser_.add_number({"--smooth", 0, 1,
                        "Move this share of the inputs' outliers into the weights, as SmoothQuant "
                        "does; 0.5 is usual (for int8 and int4)."},
                       &smooth_);
  }

  void add_calibration() {
    parser_.group("Calibration");
    parser_.add_text({"--calibrate", "FILE",
                      "Choose and round by the effect on the texts in FILE, one per line."},
                     &calibrate_);
    parser_.add_integer({"--calibrate-tokens", 1, 1 << 24,
                         "Read N tokens of the calibration text (default: 16384)."},
                        &tokens_);
    parser_.add_text({"--matrices", "NAMES",
                      "Change only these matrices, separated by commas: qkv, query, key, value, "
                      "attention_output, ffn (default: all)."},
                     &matrices_);
    parser_.add_integers({"--layers", 0, 4095, "Change only these layers (default: all)."},
                         &layers_);
  }

  void add_healing() {
    parser_.group("Healing");
    parser_.add_texts({"--heal", "FILE",
                       "Train what is left to compute of the plain text in FILE what MODEL does; "
                       "several times for several files. See tessera tune."},
                      &options_.heal.data);
    parser_.add_integer({"--heal-steps", 1, 1 << 30, "Train for N steps (default: 1000)."},
                        &heal_steps_);
  }

  void add_evaluation() {
    parser_.group("Evaluation");
    parser_.add_flag("--no-measure", &no_measure_, "Do not measure the speed before and after.");
    parser_.add_text(
        {"--task", "TASK", "Evaluate the model at TASK before and after; see tessera eval."},
        &options_.task);
    parser_.add_text({"--data", "PATH", "Read the data of --task from PATH."}, &options_.data);
    parser_.add_text(
        {"--split", "SPLIT", "Use the train, dev or test part of the data (default: test)."},
        &options_.split);
  }

  void complete() {
    complete_prune();
    complete_quantize();
    options_.compress.pruning = options_.pruning.text;
    check_search_options(options_.search, options_.task.has_value());
    if (options_.search.is_wanted && !options_.pruning.text.empty())
      both_given("--search-keep", "options of cascade pruning");
    if (merge_adapter_) {
      options_.compress.merge_adapter = *merge_adapter_;
      no_measure_ = true;  // as nothing becomes faster
    }
    if (kv_heads_) options_.compress.kv_heads = static_cast<int32_t>(*kv_heads_);
    if (!options_.compress.prune && !options_.compress.quantize && !options_.search.is_wanted &&
        !kv_heads_ && !merge_adapter_ && options_.compress.pruning.empty()) {
      usage_error(
          "expected an option --prune-..., --quantize, --kv-heads, --merge-adapter, --keep-..., "
          "--pruning or --search-keep, found none");
    }
    if (heal_steps_ && options_.heal.data.empty()) lacks("--heal-steps", "--heal FILE");
    options_.heal.steps = heal_steps_.value_or(options_.heal.steps);
    options_.heal.threads = options_.compress.calibration.threads;
    if (matrices_) options_.compress.matrices = split_at_commas(*matrices_);
    for (const int64_t layer : layers_)
      options_.compress.layers.push_back(static_cast<int32_t>(layer));
    CalibrationOptions& calibration = options_.compress.calibration;
    calibration.text_file = calibrate_.value_or("");
    calibration.tokens = tokens_.value_or(calibration.tokens);
    if (force_) options_.compress.existing = Existing::kReplace;
    if (no_measure_) options_.compress.measure = CompressOptions::Measure::kNo;
    if (options_.task.has_value() != options_.data.has_value())
      lacks(options_.task ? "--task" : "--data", options_.task ? "--data" : "--task");
    if (options_.split && !options_.task) lacks("--split", "--task");
    if (tokens_ && !calibrate_) lacks("--calibrate-tokens", "--calibrate");
  }

  void complete_prune() {
    std::optional<PruneOptions> prune = units_.complete();
    for (const auto& [name, given] :
         {std::pair{"--score", score_.has_value()}, std::pair{"--repair", repair_}}) {
      if (given && !prune) lacks(name, "an option --prune-...");
    }
    if (!prune) return;
    complete_score(*prune);
    if (repair_) prune->repair = PruneOptions::Repair::kLeastSquares;
    const bool needs_text = repair_ || prune->scope == PruneScope::kAllocated;
    if (needs_text && !calibrate_)
      lacks(repair_ ? "--repair" : "--scope allocated", "--calibrate FILE");
    options_.compress.prune = prune;
  }

  void complete_quantize() {
    for (const auto& [name, given] :
         {std::pair{"--group", group_.has_value()}, std::pair{"--smooth", smooth_.has_value()},
          std::pair{"--rounding", rounding_.has_value()}}) {
      if (given && !quantize_) lacks(name, "--quantize");
    }
    if (!quantize_) return;
    QuantizeOptions quantize{.weights = *tessera::parse<WeightType>(*quantize_),
                             .rounding = calibrate_ ? Rounding::kCompensated : Rounding::kNearest,
                             .smooth = smooth_.value_or(0)};
    if (group_) quantize.group = static_cast<int32_t>(*group_);
    if (rounding_ == "nearest") quantize.rounding = Rounding::kNearest;
    if ((rounding_ == "compensated" || quantize.smooth > 0) && !calibrate_)
      lacks(quantize.smooth > 0 ? "--smooth" : "--rounding compensated", "--calibrate FILE");
    options_.compress.quantize = quantize;
  }

  void complete_score(PruneOptions& prune) const {
    prune.score = calibrate_ ? PruneScore::kCalibrated : PruneScore::kMagnitude;
    if (!score_) return;
    if (*score_ == "calibrated" && !calibrate_) lacks("--score calibrated", "--calibrate FILE");
    if (*score_ == "magnitude") prune.score = PruneScore::kMagnitude;
  }

  Options& options_;
  Parser parser_{kSynopsis};
  PruneUnitOptions units_;
  std::optional<std::string> matrices_, calibrate_, score_, merge_adapter_, quantize_, rounding_;
  std::vector<int64_t> layers_;
  std::optional<int64_t> tokens_, group_, kv_heads_, heal_steps_;
  std::optional<double> smooth_;
  bool repair_ = false, no_measure_ = false, force_ = false;
};

}  // namespace

int compress_verb(const Arguments& arguments) {
  Options options;
  CommandLine line(options);
  if (const auto code = line.parse(arguments)) return *code;
  using Measure = CompressOptions::Measure;
  const bool shows_matrices = options.json || verbosity() == Verbosity::kVerbose;
  if (options.compress.measure != Measure::kNo)
    options.compress.measure = shows_matrices ? Measure::kMatrices : Measure::kModel;
  options.compress.command = {"tessera", "compress"};
  options.compress.command.insert(options.compress.command.end(), arguments.words.begin(),
                                  arguments.words.end());
  return finish(run(options));
}

}  // namespace tessera::cli
