#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "cli/explanation.h"
#include "cli/partial_file.h"
#include "cli/record_run.h"
#include "cli/task_verb.h"
#include "cli/verbs.h"
#include "tessera/pruning.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "explain", "MODEL [TEXT ...]",
    "Shows which words of each text survive each layer when tokens leave that few others attend "
    "to: each TEXT, or each line of a file or of standard input. Put -- before texts that start "
    "with -.",
    "  tessera explain MODEL \"As a visual treat, the film is almost perfect.\"\n"
    "  tessera explain MODEL --keep-tokens 0.7 --html words.html \\\n"
    "    \"A wonderful movie, I am sure that you will remember it, you admire its \\\n"
    "  conception and are able to resolve some of the confusions you had while \\\n"
    "  watching it.\"\n"
    "  tessera explain MODEL \\\n"
    "    \"Du Fu was a great poet of the Tang dynasty. Recently a variety of styles \\\n"
    "  have been used in efforts to translate the work of Du Fu into English\"\n"};

// Half of the tokens on average.
constexpr const char* kUsualSchedule = R"({"tokens": 0.5})";

struct Options {
  ModelOptions model;
  RecordOptions records;
  std::optional<std::string> output, html;
  bool json = false;
};

ResultOptions results_of(const Options& options) {
  return {
      options.output, options.json, ResultKind::kTexts, {"text", "ids", "words", "left", "layers"}};
}

// Keeps what a model tells of the one text that runs.
class Watcher {
 public:
  void take(const PruningRecord& record) {
    layers_.push_back(
        {.layer = record.layer,
         .tokens = {record.tokens.begin(), record.tokens.end()},
         .importance = {record.importance.begin(), record.importance.end()},
         .heads = {record.heads.begin(), record.heads.end()},
         .head_importance = {record.head_importance.begin(), record.head_importance.end()}});
  }
  std::vector<ExplainedLayer> layers() { return std::exchange(layers_, {}); }

 private:
  std::vector<ExplainedLayer> layers_;
};

class Explainer {
 public:
  Explainer(Model& model, Watcher& watcher, const Options& options)
      : model_(model),
        watcher_(watcher),
        options_(options),
        run_({"explaining", "texts", results_of(options)}) {
    paper_.is_terminal = !options.output && is_terminal(stdout);
    if (paper_.is_terminal) paper_.width = terminal_width(stdout).value_or(0);
  }

  Status run() {
    if (options_.html) {
      Result<std::unique_ptr<PartialFile>> page = PartialFile::open(*options_.html);
      if (!page.ok()) return page.status();
      page_ = *std::move(page);
      const Status status =
          page_->write(explain_html_head("Which words survive in " + model_.info().directory));
      if (!status.ok()) return status;
    }
    const Status status = run_.all(
        options_.records, [this](std::span<const Record> records) { return add(records); });
    if (!status.ok() || page_ == nullptr) return status;
    const Status end = page_->write(explain_html_tail());
    return end.ok() ? page_->commit() : end;
  }

 private:
  // All of them before any is written: a chunk that fails has written nothing.
  Status add(std::span<const Record> records) {
    std::vector<Explanation> explanations;
    for (size_t i = 0; i < records.size(); ++i) {
      if (!run_.progress(static_cast<int64_t>(i))) return {StatusCode::kCancelled, ""};
      Result<Explanation> explanation = explain(records[i]);
      if (!explanation.ok()) {
        return {explanation.status().code(),
                fmt::format("input {}: {}", i, explanation.status().message())};
      }
      explanations.push_back(*std::move(explanation));
    }
    for (size_t i = 0; i < records.size(); ++i) {
      if (Status status = write(records[i], explanations[i]); !status.ok()) return status;
    }
    return {};
  }

  Status write(const Record& record, const Explanation& explanation) {
    if (page_ != nullptr) {
      if (Status status = page_->write(explain_as_html(explanation)); !status.ok()) return status;
    }
    if (run_.writes_json()) return run_.write(record, explain_as_json(explanation));
    const std::string gap = std::exchange(has_written_, true) ? "\n" : "";
    return run_.write(record, gap + explain_as_text(explanation, paper_));
  }

  Result<Explanation> explain(const Record& record) {
    const ModelInfo& info = model_.info();
    const std::shared_ptr<const Tokenizer> tokenizer = model_.tokenizer();
    const std::string first = info.default_prompt + record.text.value_or("");
    TextPair text{first};
    if (record.pair) text.second = *record.pair;
    Encoding encoding;
    if (record.tokens) {
      encoding.ids = record.tokens->ids;
      encoding.type_ids = record.tokens->type_ids;
    } else {
      if (tokenizer == nullptr) {
        return unsupported(
            fmt::format("{} has no tokenizer: give token ids with --ids", info.directory));
      }
      Result<Encoding> encoded = tokenizer->encode(
          text, {.truncation = Truncation{.max_tokens = static_cast<size_t>(info.max_text_tokens),
                                          .side = tokenizer->truncation_side()},
                 .origins = Origins::kGive});
      if (!encoded.ok()) return encoded.status();
      encoding = *std::move(encoded);
      run_.count_truncated(encoding.truncated ? 1 : 0);
    }
    if (info.type_vocabulary_size <= 1) encoding.type_ids.clear();
    run_.count_tokens(static_cast<int64_t>(encoding.ids.size()));
    if (Status status = pass({encoding.ids, encoding.type_ids}); !status.ok()) return status;
    Explanation explanation{.text = first,
                            .ids = encoding.ids,
                            .tokens = explained_tokens(tokenizer.get(), text, encoding),
                            .layers = watcher_.layers(),
                            .heads = info.query_heads};
    find_leavers(&explanation);
    return explanation;
  }

  // As embed or the model's head reads the text, for what that reads never leaves.
  Status pass(const TokenSequence& sequence) {
    (void)watcher_.layers();
    if (model_.info().head == Head::kNone) return model_.embed({sequence}).status();
    return model_.forward({sequence}).status();
  }

  Model& model_;
  Watcher& watcher_;
  const Options& options_;
  RecordRun run_;
  PaperSize paper_;
  std::unique_ptr<PartialFile> page_;  // null: none was asked for
  bool has_written_ = false;
};

// As the options or the model say; else half of the tokens stay on average.
Status explain(Options& options) {
  Watcher watcher;
  options.model.load.on_pruning = [&watcher](const PruningRecord& record) { watcher.take(record); };
  Result<std::shared_ptr<Model>> model = load_model(options.model);
  if (model.ok() && options.model.pruning.text.empty() && (*model)->info().pruning.empty()) {
    model->reset();
    options.model.pruning.text = kUsualSchedule;
    model = load_model(options.model);
  }
  if (!model.ok()) return model.status();
  return Explainer(**model, watcher, options).run();
}

}  // namespace

int explain_verb(const Arguments& arguments) {
  Options options;
  options.records.pairs = RecordPair::kOptional;
  Parser parser(kSynopsis);
  add_record_options(parser, &options.records);
  parser.group("Output");
  parser.add_text({"--html", "FILE",
                   "Write a page to FILE too: a table of layers and tokens, shaded by importance."},
                  &options.html);
  parser.add_flag("--json", &options.json,
                  "Print one JSON object per text: {\"text\", \"ids\", \"words\", \"left\", "
                  "\"layers\"}.");
  parser.add_text({"-o,--output", "FILE",
                   "Write to FILE instead of standard output, as JSON lines if it ends in .jsonl."},
                  &options.output);
  add_model_options(parser, &options.model);
  parser.then([&] { options.json = format_of(results_of(options)) == ResultFormat::kJson; });
  if (const auto code = parse_records(parser, arguments, &options.records)) return *code;
  return finish(explain(options));
}

}  // namespace tessera::cli
