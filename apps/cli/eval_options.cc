#include "cli/eval_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace tessera::cli {
namespace {

// Tasks of the user's own files: tables, but for questions, which are SQuAD's JSON.
constexpr EvaluationKind kOwnKinds[] = {
    EvaluationKind::kClassification, EvaluationKind::kSimilarity, EvaluationKind::kRetrieval,
    EvaluationKind::kQuestionAnswering, EvaluationKind::kDataToText};

// Options that not every task reads, and those that do.
struct TaskOption {
  const char* name;
  const char* tasks;
};
constexpr TaskOption kTaskOptions[] = {
    {"--format", "classification,similarity,retrieval,data-to-text"},
    {"--header", "classification,similarity,retrieval,data-to-text"},
    {"--text", "classification,similarity,retrieval,data-to-text"},
    {"--pair", "classification,similarity,data-to-text"},
    {"--label", "classification"},
    {"--labels", "classification"},
    {"--positive", "classification"},
    {"--train", "classification"},
    {"--dev", "classification"},
    {"--score", "similarity"},
    {"--id", "retrieval"},
    {"--queries", "retrieval"},
    {"--judgements", "retrieval"},
    {"--window", "perplexity,agreement,squad,question-answering"},
    {"--stride", "perplexity"},
    {"--overlap", "squad,question-answering"},
    {"--max-answer-tokens", "squad,question-answering"},
    {"--probe-strength", "sst2,cola,mrpc,rte,classification"},
    {"--probe", "sst2,cola,mrpc,rte,classification"},
    {"--depth", "cranfield,retrieval"},
    {"--predictions", "e2e,data-to-text"},
    {"--prompt", "e2e,data-to-text"},
    {"--stop", "e2e,data-to-text"},
    {"--beams", "e2e,data-to-text"},
    {"--max-tokens", "e2e,data-to-text"},
    {"--reference", "agreement"}};

std::vector<std::string> task_names() {
  std::vector<std::string> names;
  for (const NamedTask& task : named_tasks()) names.push_back(task.name);
  for (const EvaluationKind kind : kOwnKinds) names.emplace_back(name(kind));
  return names;
}

std::string task_help() {
  return fmt::format("Evaluate this task: {}.", fmt::join(task_names(), ", "));
}

void add_data_options(Parser& parser, EvalOptions* options) {
  parser.group("Data");
  parser
      .add_texts({"--data", "PATH",
                  "Read the data from PATH, a folder of published files or a file; may be "
                  "repeated."},
                 &options->data)
      .required();
  parser.add_choice({"--split",
                     "NAME",
                     "Use the train, dev or test part (default: test).",
                     {"train", "dev", "test"}},
                    &options->split);
  parser.add_choice({"--format",
                     "FORMAT",
                     "Format of your files: csv, tsv or jsonl (default: from the file name).",
                     {"csv", "tsv", "jsonl"}},
                    &options->format);
  parser.add_flag("--header", &options->header,
                  "Read column names from the first row of your files.");
  parser.add_text({"--text", "NAME", "Take the text from this column (default: text)."},
                  &options->text);
  parser.add_text({"--pair", "NAME", "Take the second text, or the reference, from this column."},
                  &options->pair);
  parser.add_text({"--label", "NAME", "Take the label from this column (default: label)."},
                  &options->label);
  parser.add_text({"--score", "NAME", "Take the score from this column (default: score)."},
                  &options->score);
  parser.add_text(
      {"--id", "NAME", "Take the ids of documents and queries from this column (default: id)."},
      &options->id);
  parser.add_text(
      {"--labels", "A,B,...", "Name the labels as the data spells them, in the model's order."},
      &options->labels);
  parser.add_text({"--positive", "LABEL", "Compute f1 for this label (default: the last one)."},
                  &options->positive);
  parser.add_text({"--train", "FILE", "Train a linear probe on FILE."}, &options->train);
  parser.add_text({"--dev", "FILE", "Choose the strength of the probe on FILE."}, &options->dev);
  parser.add_text({"--queries", "FILE", "Read the queries of retrieval from FILE."},
                  &options->queries);
  parser.add_text({"--judgements", "FILE",
                   "Read which documents are relevant from FILE: lines of query, 0, document, "
                   "relevance."},
                  &options->judgements);
}

void add_task_settings(Parser& parser, EvalOptions* options) {
  parser.group("Task");
  const auto integer = [&parser](const char* name, const char* help,
                                 std::optional<int64_t>* value) {
    parser.add_integer({name, 1, INT32_MAX, help}, value);
  };
  integer("--window",
          "Read N tokens at a time (default: the model's context, at most 2048; 512 for agreement, "
          "384 for questions).",
          &options->window);
  integer("--stride", "Move the window of perplexity by N tokens (default: half a window).",
          &options->stride);
  integer("--overlap", "Let neighbouring windows share N tokens of a context (default: 128).",
          &options->overlap);
  integer("--max-answer-tokens", "Give answers of at most N tokens (default: 30).",
          &options->max_answer_tokens);
  parser.add_number({"--probe-strength", 1e-9, 1e9,
                     "Set C of the linear probe (default: the best on the dev file, or 1)."},
                    &options->strength);
  parser.add_choice({"--probe", "MODEL",
                     "Train the linear probe on embeddings of the same model, or of the dense one, "
                     "in which no token and no head leaves (default: same).",
                     choices_of<ProbeModel>()},
                    &options->probe);
  integer("--depth", "Rank N documents: K of ndcg@K (default: 10).", &options->depth);
  parser.add_text(
      {"--predictions", "FILE", "Score the texts in FILE, one per line, instead of generating."},
      &options->predictions);
  parser.add_text(
      {"--prompt", "TEXT", "Continue TEXT, in which {} stands for the input (default: {})."},
      &options->prompt);
  parser.add_text({"--stop", "TEXT", "End a generated text before TEXT (default: a newline)."},
                  &options->stop);
  integer("--beams", "Generate by a search with N beams (default: 1, greedy).", &options->beams);
  integer("-n,--max-tokens", "Generate at most N tokens (default: 64).", &options->max_tokens);
  parser.add_text({"--reference", "DIR", "Measure agreement with the model in DIR."},
                  &options->reference);
}

DataFormat parse_format(const std::optional<std::string>& format) {
  if (!format) return DataFormat::kAuto;
  if (*format == "csv") return DataFormat::kCsv;
  if (*format == "tsv") return DataFormat::kTsv;
  return DataFormat::kJsonLines;
}

Result<EvaluationTask> own_task(const EvalOptions& options, EvaluationKind kind) {
  EvaluationTask task;
  task.kind = kind;
  task.name = options.task;
  task.data.paths = options.data;
  task.data.format = parse_format(options.format);
  if (options.header) task.data.header = HeaderRow::kFirstRow;
  DataColumns& columns = task.data.columns;
  columns.text = options.text.value_or(columns.text);
  columns.pair = options.pair.value_or(columns.pair);
  columns.label = options.label.value_or(columns.label);
  columns.score = options.score.value_or(columns.score);
  columns.id = options.id.value_or(columns.id);
  const auto like_data = [&](const std::optional<std::string>& path) {
    DataFile file = task.data;
    file.paths.clear();
    if (path) file.paths.push_back(*path);
    return file;
  };
  task.train = like_data(options.train);
  task.dev = like_data(options.dev);
  task.retrieval.queries = like_data(options.queries);
  task.retrieval.judgements = options.judgements.value_or("");
  if (options.labels) task.labels = split_at_commas(*options.labels);
  task.positive_label = options.positive.value_or("");
  return task;
}

Result<EvaluationTask> known_task(const EvalOptions& options) {
  if (options.data.size() > 1) {
    return invalid_input(fmt::format("--data: expected one path, found {}", options.data.size()));
  }
  return named_task(options.task, options.data[0], options.split.value_or("test"));
}

// Settings that both kinds of tasks take.
void set_options(const EvalOptions& options, EvaluationTask* task) {
  const auto set = [](const std::optional<int64_t>& from, int32_t* to) {
    if (from) *to = static_cast<int32_t>(*from);
  };
  set(options.window, &task->perplexity.window_tokens);
  set(options.window, &task->agreement.window_tokens);
  set(options.window, &task->questions.window_tokens);
  set(options.stride, &task->perplexity.stride_tokens);
  if (options.overlap) task->questions.overlap_tokens = static_cast<int32_t>(*options.overlap);
  set(options.max_answer_tokens, &task->questions.max_answer_tokens);
  set(options.depth, &task->retrieval.depth);
  set(options.beams, &task->data_to_text.beams);
  set(options.max_tokens, &task->data_to_text.max_new_tokens);
  task->probe.strength = options.strength.value_or(0);
  if (options.probe == name(ProbeModel::kDense)) task->probe.model = ProbeModel::kDense;
  task->data_to_text.predictions = options.predictions.value_or("");
  task->data_to_text.prompt = options.prompt.value_or(task->data_to_text.prompt);
  task->data_to_text.stop = options.stop.value_or(task->data_to_text.stop);
  task->max_examples = options.max_examples.value_or(0);
  if (options.refuse_long) task->on_long_text = OnLongText::kBad;
  if (options.on_error == "skip") task->on_bad_data = OnBadData::kSkip;
}

Status check_options(const Parser& parser, const EvalOptions& options, const EvaluationTask& task) {
  for (const TaskOption& each : kTaskOptions) {
    const std::vector<std::string> tasks = split_at_commas(each.tasks);
    const bool is_read = std::find(tasks.begin(), tasks.end(), options.task) != tasks.end();
    if (is_read || !parser.is_given(each.name)) continue;
    return invalid_input(fmt::format("{}: expected --task {}, found {}", each.name,
                                     fmt::join(tasks, " or "), options.task));
  }
  if (options.split && task.split.empty()) {
    return invalid_input(fmt::format("--split: expected a folder of published data, found {} of {}",
                                     options.task, fmt::join(options.data, ", ")));
  }
  if (task.kind == EvaluationKind::kAgreement && !options.reference)
    return invalid_input("--task agreement: expected --reference as well");
  const bool needs_model =
      task.kind != EvaluationKind::kDataToText || task.data_to_text.predictions.empty();
  return needs_model && !options.has_model ? invalid_input("expected MODEL, found none") : Status();
}

}  // namespace

void add_eval_options(Parser& parser, EvalOptions* options) {
  parser.group("Task");
  parser.add_text({"--task", "NAME", task_help()}, &options->task).required();
  add_task_settings(parser, options);
  add_data_options(parser, options);
  parser.add_integer(
      {"--max-examples", 1, INT32_MAX, "Use only the first N examples (default: all)."},
      &options->max_examples);
  parser.add_choice({"--on-error",
                     "WHAT",
                     "At bad data, stop, or skip it and say where it is (default: stop).",
                     {"stop", "skip"}},
                    &options->on_error);
  parser.add_flag("--refuse-long", &options->refuse_long,
                  "Treat texts longer than the model's context as bad data instead of cutting "
                  "them.");
  parser.group("Statistics");
  parser.add_text({"--base", "DIR", "Compare with the model in DIR, example by example."},
                  &options->base);
  parser.add_integer({"--resamples", 0, 1'000'000,
                      "Bootstrap with N resamples; 0 means no intervals (default: 1000)."},
                     &options->resamples);
  parser.add_number(
      {"--confidence", 0.01, 0.9999, "Give intervals of this confidence (default: 0.95)."},
      &options->confidence);
  parser.add_integer({"--seed", 0, INT64_MAX, "Random seed of the bootstrap (default: 0)."},
                     &options->seed);
  parser.group("Output");
  parser.add_flag("--json", &options->json, "Print JSON instead of a table.");
  parser.add_text(
      {"--output-examples", "FILE", "Write each example's result to FILE, as lines of JSON."},
      &options->examples_file);
  parser.then([options] { check_choice("--task", task_names(), options->task); });
  parser.add_text({"-o,--output", "FILE", "Write to FILE instead of standard output."},
                  &options->output);
  add_model_options(parser, &options->model);
  add_trace_option(parser, &options->model);
  add_cache_option(parser, &options->model);
  // Texts that were generated elsewhere are scored without one.
  parser.option("MODEL").optional();
}

Result<EvaluationTask> eval_task(const Parser& parser, const EvalOptions& options) {
  const auto* const own =
      std::find_if(std::begin(kOwnKinds), std::end(kOwnKinds),
                   [&](EvaluationKind kind) { return options.task == name(kind); });
  Result<EvaluationTask> task =
      own == std::end(kOwnKinds) ? known_task(options) : own_task(options, *own);
  if (!task.ok()) return task;
  set_options(options, &*task);
  const Status status = check_options(parser, options, *task);
  return status.ok() ? task : status;
}

}  // namespace tessera::cli
