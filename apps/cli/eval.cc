#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/eval_options.h"
#include "cli/table.h"
#include "cli/task_verb.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "eval", "MODEL --task NAME --data PATH",
    "Measures how accurate a model is at a task, with confidence intervals, and compares it with "
    "another model.",
    "  tessera eval models/tales --task perplexity --data tales/test.txt --stride 256\n"
    "  tessera eval MODEL --task stsb --data data/glue --split test\n"
    "  tessera eval MODEL --task sst2 --data data/glue --base OTHER --json\n"
    "  tessera eval MODEL --task classification --data reviews.csv --text review --label "
    "stars\n"
    "  tessera eval MODEL --task agreement --reference OTHER --data text.txt\n"
    "  tessera eval --task data-to-text --data references.txt --predictions output.txt\n"};

std::string rounded(double value) {
  if (std::isnan(value)) return "-";
  // A small divergence is not none.
  if (value != 0 && std::abs(value) < 0.001) return fmt::format("{:.2g}", value);
  return std::abs(value) >= 1000 ? fmt::format("{:.1f}", value) : fmt::format("{:.4f}", value);
}

std::string interval(double low, double high) {
  return std::isnan(low) ? "" : fmt::format("{} to {}", rounded(low), rounded(high));
}

std::string counts_line(const Evaluation& evaluation) {
  const EvaluationCounts& counts = evaluation.counts;
  std::string line = counted(counts.examples, "examples");
  const auto add = [&](int64_t count, std::string_view unit, std::string_view what) {
    if (count > 0) line += fmt::format(", {}{}", counted(count, unit), what);
  };
  add(counts.tokens, "tokens", " read");
  add(counts.scored_tokens, "tokens", " scored");
  add(counts.words, "words", "");
  add(counts.bytes, "bytes", "");
  if (counts.skipped > 0) line += fmt::format(", {} left out", counts.skipped);
  if (counts.cut > 0) line += fmt::format(", {} cut", counts.cut);
  return line + fmt::format(", {:.1f} s", evaluation.seconds);
}

std::string as_text(const Evaluation& evaluation, std::span<const MetricDifference> differences,
                    const BootstrapOptions& bootstrap) {
  std::string text =
      fmt::format("{}{}{}: {}\n{}\n", evaluation.task, evaluation.split.empty() ? "" : " ",
                  evaluation.split, evaluation.method, counts_line(evaluation));
  const std::string sure = fmt::format("{:.4g}% interval", 100 * bootstrap.confidence);
  std::vector<Column> columns = {{"metric"}, {"value", Align::kRight}, {sure, Align::kRight}};
  if (!differences.empty()) {
    for (const char* title : {"base", "difference", "its interval", "p"}) {
      columns.push_back({title, Align::kRight});
    }
  }
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < evaluation.metrics.size(); ++i) {
    const Metric& metric = evaluation.metrics[i];
    auto& row = rows.emplace_back(std::vector<std::string>{metric.name, rounded(metric.value),
                                                           interval(metric.low, metric.high)});
    if (i >= differences.size()) continue;
    const MetricDifference& found = differences[i];
    for (std::string cell : {rounded(found.base), rounded(found.difference),
                             interval(found.low, found.high), rounded(found.p_value)}) {
      row.push_back(std::move(cell));
    }
  }
  text += format_table(columns, rows);
  if (bootstrap.resamples == 0) return text;
  return text + fmt::format("{} resamples of the examples, seed {}\n", bootstrap.resamples,
                            bootstrap.seed);
}

Status write_to(const std::optional<std::string>& path, std::string_view text) {
  Output out;
  Status status = path ? out.open(*path) : Status();
  if (status.ok()) status = out.write(text);
  const Status closed = path ? out.close() : out.flush();
  return status.ok() ? closed : status;
}

Status write_examples(const std::string& path, const Evaluation& evaluation) {
  std::string lines;
  for (const EvaluatedExample& example : evaluation.examples) {
    nlohmann::ordered_json line = {{"id", example.id},
                                   {"score", example.score},
                                   {"output", example.output},
                                   {"expected", example.expected},
                                   {"values", example.values}};
    lines += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  return write_to(path, lines);
}

// Where that fails, to standard output: it took hours.
Status write_metrics(const std::optional<std::string>& path, std::string_view text) {
  const Status status = write_to(path, text);
  if (!status.ok() && path) (void)write_to(std::nullopt, text);
  return status;
}

// What was left out or cut, by line; many of them would hide the result.
void report_notes(const Evaluation& evaluation) {
  constexpr size_t kMost = 10;
  const int64_t all = evaluation.counts.skipped + evaluation.counts.cut;
  for (size_t i = 0; i < std::min(kMost, evaluation.notes.size()); ++i) {
    warn(on_one_line(evaluation.notes[i]));
  }
  if (evaluation.notes.size() > kMost) {
    const int64_t count = std::max(all, static_cast<int64_t>(evaluation.notes.size()));
    warn(fmt::format("and {} more (--json has them)", count - static_cast<int64_t>(kMost)));
  }
}

// As its checkpoint is: the options of MODEL are what it is compared for.
Result<std::shared_ptr<Model>> load_other(const EvalOptions& options,
                                          const std::string& directory) {
  ModelOptions other;
  other.directory = directory;
  other.load.threads = options.model.load.threads;
  return load_model(other);
}

EvaluateOptions evaluate_options(const EvalOptions& options, Steps& steps) {
  EvaluateOptions found;
  found.bootstrap.resamples =
      static_cast<int32_t>(options.resamples.value_or(found.bootstrap.resamples));
  found.bootstrap.seed = static_cast<uint64_t>(options.seed.value_or(0));
  found.bootstrap.confidence = options.confidence.value_or(found.bootstrap.confidence);
  found.on_progress = std::ref(steps);
  return found;
}

// To the base, with one evaluation more; none where there is no base.
Result<std::vector<MetricDifference>> differences_to_base(const EvalOptions& options,
                                                          const EvaluationTask& task,
                                                          const EvaluateOptions& how,
                                                          const Evaluation& evaluation) {
  if (!options.base) return std::vector<MetricDifference>();
  Result<std::shared_ptr<Model>> base = load_other(options, *options.base);
  if (!base.ok()) return base.status();
  const Result<Evaluation> other = evaluate(*base, task, how);
  if (!other.ok()) return Status(other.status().code(), "--base: " + other.status().message());
  return compare(evaluation, *other, how.bootstrap);
}

Status check_outputs(const EvalOptions& options) {
  for (const auto& path : {options.output, options.examples_file}) {
    if (!path) continue;
    if (Status status = check_writable(*path); !status.ok()) return status;
  }
  return {};
}

// What was evaluated is told whatever fails behind it.
Status eval(const EvalOptions& options, EvaluationTask task) {
  const Interrupt interrupt;
  if (Status status = check_outputs(options); !status.ok()) return status;
  std::shared_ptr<Model> model;
  if (options.has_model) {
    Result<std::shared_ptr<Model>> loaded = load_model(options.model);
    if (!loaded.ok()) return loaded.status();
    model = *loaded;
  }
  if (options.reference) {
    Result<std::shared_ptr<Model>> loaded = load_other(options, *options.reference);
    if (!loaded.ok()) return loaded.status();
    task.agreement.reference = *loaded;
  }
  Steps steps;
  const EvaluateOptions how = evaluate_options(options, steps);
  const Result<Evaluation> evaluation = evaluate(model, task, how);
  steps.clear();
  if (!evaluation.ok()) return evaluation.status();
  report_notes(*evaluation);
  model.reset();
  const auto compared = differences_to_base(options, task, how, *evaluation);
  steps.clear();
  const auto differences = compared.ok() ? *compared : std::vector<MetricDifference>();
  const Status examples =
      options.examples_file ? write_examples(*options.examples_file, *evaluation) : Status();
  const Status metrics = write_metrics(
      options.output, options.json ? evaluation_json(*evaluation, differences) + "\n"
                                   : as_text(*evaluation, differences, how.bootstrap));
  for (const Status& status : {compared.status(), metrics, examples}) {
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace

int eval_verb(const Arguments& arguments) {
  EvalOptions options;
  Parser parser(kSynopsis);
  add_eval_options(parser, &options);
  if (const auto code = parser.parse(arguments)) return *code;
  options.has_model = parser.is_given("MODEL");
  Result<EvaluationTask> task = eval_task(parser, options);
  if (!task.ok()) return parser.report_usage(task.status().message());
  return finish(eval(options, std::move(task).value()), options.model);
}

}  // namespace tessera::cli
