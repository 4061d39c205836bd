#include "cli/eval_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace tessera::cli {
namespace {

struct KindName {
  const char* name;
  EvaluationKind kind;
};
// Tasks of the user's own files: tables, but for questions, which are SQuAD's JSON.
constexpr KindName kKinds[] = {{"classification", EvaluationKind::kClassification},
                               {"similarity", EvaluationKind::kSimilarity},
                               {"retrieval", EvaluationKind::kRetrieval},
                               {"question-answering", EvaluationKind::kQuestionAnswering},
                               {"data-to-text", EvaluationKind::kDataToText}};

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
    {"--depth", "cranfield,retrieval"},
    {"--predictions", "e2e,data-to-text"},
    {"--prompt", "e2e,data-to-text"},
    {"--stop", "e2e,data-to-text"},
    {"--beams", "e2e,data-to-text"},
    {"--max-tokens", "e2e,data-to-text"},
    {"--reference", "agreement"}};

std::string task_help() {
  std::string names;
  for (const NamedTask& task : named_tasks()) names += task.name + ", ";
  for (const KindName& kind : kKinds) names += fmt::format("{}, ", kind.name);
  names.resize(names.size() - 2);
  return "What to evaluate: " + names;
}

void add_data_options(Parser& parser, EvalOptions* options) {
  parser
      .add_texts({"--data", "PATH", "The published files' folder, or a file; may be given again"},
                 &options->data)
      .required();
  parser.add_text({"--split", "NAME", "train, dev or test (default: test)"}, &options->split);
  parser.add_text(
      {"--format", "FORMAT", "Of own files: csv, tsv or jsonl (default: by the ending)"},
      &options->format);
  parser.add_flag("--header", &options->header, "The first row of own files holds names");
  parser.add_text({"--text", "NAME", "The column of the text (default: text)"}, &options->text);
  parser.add_text({"--pair", "NAME", "The column of the second text, or of the reference"},
                  &options->pair);
  parser.add_text({"--label", "NAME", "The column of the label (default: label)"}, &options->label);
  parser.add_text({"--score", "NAME", "The column of the score (default: score)"}, &options->score);
  parser.add_text({"--id", "NAME", "The column of documents' and queries' ids (default: id)"},
                  &options->id);
  parser.add_text(
      {"--labels", "A,B,...", "The labels as the data spells them, in the model's order"},
      &options->labels);
  parser.add_text({"--positive", "LABEL", "The label that f1 is about (default: the last one)"},
                  &options->positive);
  parser.add_text({"--train", "FILE", "What a linear probe is trained on"}, &options->train);
  parser.add_text({"--dev", "FILE", "What its strength is chosen on"}, &options->dev);
  parser.add_text({"--queries", "FILE", "Of retrieval, with --judgements"}, &options->queries);
  parser.add_text({"--judgements", "FILE", "Lines of query, 0, document, relevance"},
                  &options->judgements);
}

void add_task_settings(Parser& parser, EvalOptions* options) {
  const auto integer = [&parser](const char* name, const char* help,
                                 std::optional<int64_t>* value) {
    parser.add_integer({name, 1, INT32_MAX, help}, value);
  };
  integer("--window",
          "Tokens read at once (default: the model's context, at most 2048; see the page)",
          &options->window);
  integer("--stride", "Tokens between windows of perplexity (default: half a window)",
          &options->stride);
  integer("--overlap", "Tokens of a context that windows share (default: 128)", &options->overlap);
  integer("--max-answer-tokens", "Of an answer (default: 30)", &options->max_answer_tokens);
  parser.add_number({"--probe-strength", 1e-9, 1e9,
                     "C of the linear probe (default: the best on the dev file, or 1)"},
                    &options->strength);
  integer("--depth", "K of ndcg@K (default: 10)", &options->depth);
  parser.add_text({"--predictions", "FILE", "Texts to score instead of generating, one a line"},
                  &options->predictions);
  parser.add_text({"--prompt", "TEXT", "What is continued; {} is the input (default: {})"},
                  &options->prompt);
  parser.add_text({"--stop", "TEXT", "What ends a generated text (default: a line end)"},
                  &options->stop);
  integer("--beams", "Generate by a beam search (default: 1, greedy)", &options->beams);
  integer("--max-tokens", "Of a generated text (default: 64)", &options->max_tokens);
  parser.add_text({"--reference", "DIR", "The model that agreement compares with"},
                  &options->reference);
}

Result<DataFormat> parse_format(const std::optional<std::string>& format) {
  if (!format) return DataFormat::kAuto;
  if (*format == "csv") return DataFormat::kCsv;
  if (*format == "tsv") return DataFormat::kTsv;
  if (*format == "jsonl") return DataFormat::kJsonLines;
  return invalid_input(fmt::format("--format: expected csv, tsv or jsonl, found \"{}\"", *format));
}

Result<EvaluationTask> own_task(const EvalOptions& options, EvaluationKind kind) {
  EvaluationTask task;
  task.kind = kind;
  task.name = options.task;
  const Result<DataFormat> format = parse_format(options.format);
  if (!format.ok()) return format.status();
  task.data.paths = options.data;
  task.data.format = *format;
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
    return invalid_input("expected --reference with --task agreement, found none");
  const bool needs_model =
      task.kind != EvaluationKind::kDataToText || task.data_to_text.predictions.empty();
  return needs_model && !options.has_model ? invalid_input("expected MODEL") : Status();
}

}  // namespace

void add_eval_options(Parser& parser, EvalOptions* options) {
  parser.add_text({"--task", "NAME", task_help()}, &options->task).required();
  add_data_options(parser, options);
  add_task_settings(parser, options);
  parser.add_text({"--base", "DIR", "A model to compare with, example by example"}, &options->base);
  parser.add_integer({"--max-examples", 1, INT32_MAX, "Only the first so many"},
                     &options->max_examples);
  parser.add_text(
      {"--on-error", "WHAT", "Bad data: stop at the first, or skip and name each (default: stop)"},
      &options->on_error);
  parser.add_flag("--refuse-long", &options->refuse_long,
                  "Texts longer than the model's context are bad data; else they are cut");
  parser.add_integer(
      {"--resamples", 0, 1'000'000, "Of the bootstrap; 0: no intervals (default: 1000)"},
      &options->resamples);
  parser.add_number({"--confidence", 0.01, 0.9999, "Of the intervals (default: 0.95)"},
                    &options->confidence);
  parser.add_integer({"--seed", 0, INT64_MAX, "Of the bootstrap (default: 0)"}, &options->seed);
  parser.add_flag("--json", &options->json, "Print an object of JSON");
  parser.add_text({"--output-examples", "FILE", "Write each example's result as a line of JSON"},
                  &options->examples_file);
  parser.add_text({"-o,--output", "FILE", "Write to FILE instead of standard output"},
                  &options->output);
  add_model_options(parser, &options->model);
  add_cache_option(parser, &options->model);
  // Texts that were generated elsewhere are scored without one.
  parser.option("MODEL").optional();
}

Result<EvaluationTask> eval_task(const Parser& parser, const EvalOptions& options) {
  if (options.on_error && options.on_error != "stop" && options.on_error != "skip") {
    return invalid_input(
        fmt::format("--on-error: expected stop or skip, found \"{}\"", *options.on_error));
  }
  const auto* const own =
      std::find_if(std::begin(kKinds), std::end(kKinds),
                   [&](const KindName& kind) { return options.task == kind.name; });
  Result<EvaluationTask> task =
      own == std::end(kKinds) ? known_task(options) : own_task(options, own->kind);
  if (!task.ok()) return task;
  set_options(options, &*task);
  const Status status = check_options(parser, options, *task);
  return status.ok() ? task : status;
}

}  // namespace tessera::cli
