#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "cli/task_verb.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "classify", "MODEL [TEXT ...]",
    "Gives each text a label: each TEXT, or each line of a file or of standard input. Prints one "
    "line for each, in their order. Put -- before texts that start with -.",
    "  tessera classify MODEL \"A joy to watch.\" \"Two hours I will not get back.\"\n"
    "  tessera classify MODEL --file reviews.csv --column review --json\n"
    "  tessera classify MODEL \"It rains.\" --pair \"The street is wet.\" --top 3\n"
    "  tessera classify MODEL --ids 101,7592,102\n"};

struct Options {
  TaskVerb task;
  std::optional<int64_t> top;
};

class Classifier {
 public:
  Classifier(Model& model, const Options& options)
      : model_(model), options_(options), info_(model.info()) {}

  Status run(std::span<const Record> records, RecordRun& run) {
    Result<std::vector<Classification>> results =
        classify(model_, as_inputs(records), task_options(options_.task, run));
    if (!results.ok()) return results.status();
    for (size_t i = 0; i < records.size(); ++i) {
      const Classification& result = (*results)[i];
      run.count_tokens(result.tokens);
      run.count_truncated(result.truncated ? 1 : 0);
      const Status status =
          run.write(records[i], options_.task.json ? json(records[i], result) : plain(result));
      if (!status.ok()) return status;
    }
    return {};
  }

 private:
  // Labels to be shown, best first.
  std::vector<size_t> order(const Classification& result) const {
    std::vector<size_t> order(result.scores.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return result.logits[a] > result.logits[b]; });
    // One label holds, unless each is for itself; JSON readers pick for themselves.
    const bool one = !options_.task.json && info_.label_scores == LabelScores::kSoftmax;
    const size_t usual = one ? 1 : order.size();
    const size_t most = options_.top ? static_cast<size_t>(*options_.top) : usual;
    order.resize(std::min(order.size(), most));
    return order;
  }

  std::string plain(const Classification& result) const {
    std::string line;
    for (const size_t label : order(result)) {
      line += fmt::format("{}{} {:.4f}", line.empty() ? "" : "  ", info_.labels[label],
                          result.scores[label]);
    }
    return line + "\n";
  }

  std::string json(const Record& record, const Classification& result) const {
    const size_t best = static_cast<size_t>(result.best);
    std::vector<std::string> scores;
    for (const size_t label : order(result)) {
      JsonLine entry;
      entry.text("label", info_.labels[label]).number("score", result.scores[label]);
      scores.push_back(entry.object());
    }
    JsonLine line;
    add_record(record, &line);
    line.text("label", info_.labels[best]).number("score", result.scores[best]);
    line.raw("scores", json_array(scores));
    if (options_.task.logits) line.raw("logits", json_array(result.logits));
    line.integer("tokens", result.tokens).truth("truncated", result.truncated);
    return line.line();
  }

  Model& model_;
  const Options& options_;
  const ModelInfo& info_;
};

Status classify_records(const Options& options) {
  constexpr Head kHeads[] = {Head::kSequenceClassification};
  Result<std::shared_ptr<Model>> model = load_for(options.task, kHeads);
  if (!model.ok()) return model.status();
  Classifier classifier(**model, options);
  RecordRun run({"classifying", "texts",
                 results_of(options.task, {"text", "pair", "ids", "label", "score", "scores",
                                           "logits", "tokens", "truncated"})});
  return run.all(options.task.records,
                 [&](std::span<const Record> records) { return classifier.run(records, run); });
}

}  // namespace

int classify_verb(const Arguments& arguments) {
  Options options;
  options.task.records.pairs = RecordPair::kOptional;
  Parser parser(kSynopsis);
  parser.group("Output");
  parser.add_integer({"--top", 1, INT32_MAX,
                      "Show the N best labels (default: the best, or all when several can apply)."},
                     &options.top);
  add_refuse_long(parser, &options.task);
  add_task_options(
      parser,
      {"Print one JSON object per text: {\"text\", \"label\", \"score\", \"scores\", ...}.",
       "Add the logits, in the order of the labels, to the output of --json."},
      &options.task);
  if (const auto code = parse_task(parser, arguments, &options.task)) return *code;
  return finish(classify_records(options), options.task.model);
}

}  // namespace tessera::cli
