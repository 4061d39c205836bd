#include <fmt/format.h>

#include <algorithm>

#include "cli/inputs.h"
#include "cli/task_verb.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "answer", "MODEL [QUESTION ...]",
    "Finds answers to questions in a context of any length, which is read in overlapping windows. "
    "Questions are arguments, with one context for all or a --pair for each, or come from a file "
    "or "
    "standard input: JSON lines of {\"question\", \"context\"}, CSV or TSV. Prints one line for "
    "each "
    "question, in their order. Offsets of --json count characters (code points).",
    "  tessera answer MODEL \"Who wrote it?\" \"When?\" --context-file chapter.txt\n"
    "  tessera answer MODEL \"Who?\" --context \"Ada wrote it in 1843.\" --answers 3\n"
    "  tessera answer MODEL --file questions.jsonl --json\n"
    "  tessera answer MODEL --file questions.txt --format lines --context-file "
    "chapter.txt\n"};

// Contexts of one chunk of questions that have theirs in common.
constexpr size_t kChunkContextBytes = size_t{1} << 20;

struct Options {
  TaskVerb task;
  std::optional<std::string> context, context_file;
  std::optional<int64_t> answers, max_answer_tokens, window_tokens, overlap_tokens;
  bool no_answer = false;
};

class Answerer {
 public:
  Answerer(Model& model, const Options& options) : model_(model), options_(options) {}

  Status run(std::span<const Record> records, RecordRun& run) {
    std::vector<TaskInput> inputs = as_inputs(records);
    for (TaskInput& input : inputs) {
      if (!input.tokens && !input.pair) input.pair = options_.context;
    }
    Result<std::vector<Answers>> results = answer(model_, inputs, task(run));
    if (!results.ok()) return results.status();
    for (size_t i = 0; i < records.size(); ++i) {
      const Answers& result = (*results)[i];
      const Status status =
          run.write(records[i], options_.task.json ? json(inputs[i], result) : plain(result));
      if (!status.ok()) return status;
    }
    return {};
  }

 private:
  AnswerOptions task(RecordRun& run) const {
    auto task = task_options<AnswerOptions>(options_.task, run);
    for (const auto& [given, target] :
         {std::pair{&options_.answers, &task.answers},
          std::pair{&options_.max_answer_tokens, &task.max_answer_tokens},
          std::pair{&options_.window_tokens, &task.window_tokens}}) {
      if (*given) *target = static_cast<int32_t>(**given);
    }
    if (options_.overlap_tokens)
      task.overlap_tokens = static_cast<int32_t>(*options_.overlap_tokens);
    return task;
  }

  // Whether the model finds it likelier that the context has no answer.
  bool has_none(const Answers& result) const {
    return result.best.empty() ||
           (options_.no_answer && result.no_answer_score > result.best.front().score);
  }

  std::string plain(const Answers& result) const {
    if (has_none(result)) return "-\n";
    std::string line;
    for (const Answer& each : result.best) {
      const std::string what =
          each.text.empty()
              ? fmt::format("tokens {}-{}", each.span.begin_token, each.span.end_token - 1)
              : on_one_line(each.text);
      line += fmt::format("{}{} [{:.4f}]", line.empty() ? "" : "  ", what, each.score);
    }
    return line + "\n";
  }

  std::string json(const TaskInput& input, const Answers& result) const {
    JsonLine line;
    std::optional<CharacterIndex> characters;
    if (input.tokens) {
      line.raw("ids", json_array(input.tokens->ids));
    } else {
      line.text("question", input.text);
      characters.emplace(*input.pair);
      if (has_none(result)) {
        line.raw("answer", "null");
      } else {
        line.text("answer", result.best.front().text);
      }
    }
    std::vector<std::string> answers;
    for (const Answer& each : result.best) {
      JsonLine entry;
      if (characters) {
        entry.text("text", each.text);
        entry.integer("start", characters->of(each.span.begin_byte));
        entry.integer("end", characters->of(each.span.end_byte));
      } else {
        entry.integer("start_token", each.span.begin_token);
        entry.integer("end_token", each.span.end_token);
      }
      entry.number("score", each.score);
      answers.push_back(entry.object());
    }
    line.raw("answers", json_array(answers)).number("no_answer_score", result.no_answer_score);
    line.integer("windows", result.windows);
    if (options_.task.logits && input.tokens) {
      line.raw("start_logits", json_array(result.start_logits));
      line.raw("end_logits", json_array(result.end_logits));
    }
    return line.line();
  }

  Model& model_;
  const Options& options_;
};

Status answer_records(Options& options) {
  constexpr Head kHeads[] = {Head::kQuestionAnswering};
  if (options.context_file) {
    Result<std::string> text = read_text(*options.context_file);
    if (!text.ok()) return text.status();
    options.context = std::move(text).value();
  }
  Result<std::shared_ptr<Model>> model = load_for(options.task, kHeads);
  if (!model.ok()) return model.status();
  Answerer answerer(**model, options);
  RunOptions run_options{
      "answering", "questions",
      results_of(options.task, {"ids", "question", "answer", "answers", "no_answer_score",
                                "windows", "start_logits", "end_logits"})};
  // The windows of a chunk are held together, and each question has its own over the context.
  if (options.context) {
    size_t& most = run_options.chunk.records;
    most = std::clamp<size_t>(kChunkContextBytes / (options.context->size() + 1), 1, most);
  }
  RecordRun run(std::move(run_options));
  return run.all(options.task.records,
                 [&](std::span<const Record> records) { return answerer.run(records, run); });
}

void add_answer_options(Parser& parser, Options* options) {
  // With a context for all, questions may stand alone.
  const auto take_context = [options](std::optional<std::string>* target) {
    return [options, target](const std::string& text) {
      *target = text;
      options->task.records.pairs = RecordPair::kOptional;
    };
  };
  parser.group("Input");
  const Option context = parser.add_text(
      {"--context", "TEXT", "Search TEXT for questions that come without a context."},
      take_context(&options->context));
  const Option file = parser.add_text(
      {"--context-file", "FILE", "Search the text in FILE (- is standard input) instead."},
      take_context(&options->context_file));
  context.excludes({file});
  parser.group("Answers");
  parser.add_integer(
      {"--answers", 1, INT32_MAX, "Give the N best answers to each question (default: 1)."},
      &options->answers);
  parser.add_integer(
      {"--max-answer-tokens", 1, INT32_MAX, "Give answers of at most N tokens (default: 30)."},
      &options->max_answer_tokens);
  parser.add_integer(
      {"--window", 1, INT32_MAX, "Read N tokens at a time, including the question (default: 384)."},
      &options->window_tokens);
  parser.add_integer(
      {"--overlap", 0, INT32_MAX,
       "Let neighbouring windows share N tokens of the context (default: 128, or half of "
       "what fits)."},
      &options->overlap_tokens);
  parser.add_flag("--no-answer", &options->no_answer,
                  "Print - (null in JSON) when it is more likely that the context has no answer.");
}

}  // namespace

int answer_verb(const Arguments& arguments) {
  Options options;
  RecordOptions& records = options.task.records;
  records.pairs = RecordPair::kRequired;
  records.usual = RecordFormat::kJsonLines;
  records.text_key = "question";
  records.pair_key = "context";
  records.pair_options = "--context for all, or --pair";
  Parser parser(kSynopsis);
  add_answer_options(parser, &options);
  add_task_options(parser,
                   {"Print one JSON object per question: {\"question\", \"answer\", \"answers\": "
                    "[{\"text\", \"start\", \"end\", \"score\"}], ...}.",
                    "Add start and end logits of inputs of --ids to the output of --json."},
                   &options.task);
  // Ids hold their context; one beside them would be left unread.
  for (const char* context : {"--context", "--context-file"}) {
    parser.option("--ids").excludes({parser.option(context)});
  }
  if (const auto code = parse_task(parser, arguments, &options.task)) return *code;
  return finish(answer_records(options), options.task.model);
}

}  // namespace tessera::cli
