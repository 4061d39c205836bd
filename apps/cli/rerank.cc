#include <fmt/format.h>

#include <algorithm>

#include "cli/task_verb.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "rerank", "MODEL --query TEXT [DOCUMENT ...]",
    "Orders documents by their relevance to a query: each DOCUMENT, or each line of a file or of "
    "standard input. Prints them best first, each with its score and its number. A cross-encoder "
    "reads query and document together; an encoder compares their embeddings.",
    "  tessera rerank MODEL --query \"wet streets\" \"It rains.\" \"It is noon.\"\n"
    "  tessera rerank MODEL --query \"wet streets\" --file lines.txt --top 10\n"
    "  tessera rerank MODEL --query \"tyres\" --file shop.csv --column title "
    "--json\n"};

struct Options {
  TaskVerb task;
  std::string query;
  std::optional<int64_t> top;
};

struct Document {
  Record record;
  float score = 0;
};

// Documents come in chunks and leave all together.
class Ranking {
 public:
  Ranking(Model& model, const Options& options) : model_(model), options_(options) {}

  Status add(std::span<const Record> records, RecordRun& run) {
    std::vector<std::string> texts;
    for (const Record& record : records) texts.push_back(record.text.value_or(""));
    Result<std::vector<Ranked>> ranked =
        rerank(model_, options_.query, texts, task_options(options_.task, run));
    if (!ranked.ok()) return ranked.status();
    for (const Ranked& each : *ranked) {
      run.count_truncated(each.truncated ? 1 : 0);
      documents_.push_back({records[static_cast<size_t>(each.document)], each.score});
    }
    std::stable_sort(documents_.begin(), documents_.end(),
                     [](const Document& a, const Document& b) { return a.score > b.score; });
    if (options_.top && documents_.size() > static_cast<size_t>(*options_.top)) {
      documents_.resize(static_cast<size_t>(*options_.top));
    }
    return {};
  }

  Status write(RecordRun& run) const {
    for (const Document& document : documents_) {
      const std::string text = document.record.text.value_or("");
      JsonLine line;
      line.integer("document", document.record.number).number("score", document.score);
      line.text("text", text);
      const std::string plain = fmt::format("{:.4f}  {}  {}\n", document.score,
                                            document.record.number, on_one_line(text));
      const Status status = run.write(document.record, options_.task.json ? line.line() : plain);
      if (!status.ok()) return status;
    }
    return {};
  }

 private:
  Model& model_;
  const Options& options_;
  std::vector<Document> documents_;  // best first
};

Status rerank_records(const Options& options) {
  constexpr Head kHeads[] = {Head::kSequenceClassification, Head::kNone, Head::kMaskedLm};
  Result<std::shared_ptr<Model>> model = load_for(options.task, kHeads);
  if (!model.ok()) return model.status();
  Ranking ranking(**model, options);
  RecordRun run({"ranking", "documents", results_of(options.task, {"document", "score", "text"}),
                 SkippedRows::kOmit});
  return run.all(
      options.task.records,
      [&](std::span<const Record> records) { return ranking.add(records, run); },
      [&] { return ranking.write(run); });
}

}  // namespace

int rerank_verb(const Arguments& arguments) {
  Options options;
  options.task.records.content = RecordContent::kText;
  Parser parser(kSynopsis);
  std::optional<std::string> query;
  parser.group("Input");
  parser.add_text({"--query", "TEXT", "Order documents by their relevance to TEXT."}, &query)
      .required();
  parser.group("Output");
  parser.add_integer({"--top", 1, INT32_MAX, "Print only the N best (default: all)."},
                     &options.top);
  add_refuse_long(parser, &options.task);
  add_task_options(parser,
                   {"Print one JSON object per document: {\"document\", \"score\", \"text\"}."},
                   &options.task);
  if (const auto code = parse_task(parser, arguments, &options.task)) return *code;
  options.query = query.value_or("");
  return finish(rerank_records(options), options.task.model);
}

}  // namespace tessera::cli
