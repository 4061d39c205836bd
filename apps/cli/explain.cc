#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "cli/explanation.h"
#include "cli/partial_file.h"
#include "cli/record_run.h"
#include "cli/task_verb.h"
#include "cli/verbs.h"
#include "tessera/engine.h"
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
    "  have been used in efforts to translate the work of Du Fu into\" -n 3\n"};

// Half of the tokens on average.
constexpr const char* kUsualSchedule = R"({"tokens": 0.5})";

struct Options {
  ModelOptions model;
  RecordOptions records;
  std::optional<std::string> output, html;
  std::optional<int64_t> max_tokens;
  bool json = false;
};

ResultOptions results_of(const Options& options) {
  return {options.output,
          options.json,
          ResultKind::kTexts,
          {"text", "ids", "words", "left", "layers", "next"}};
}

// Keeps what a model tells of the one text that runs.
class Watcher {
 public:
  void take(const PruningRecord& record) {
    layers_.push_back(
        {.step = record.step,
         .layer = record.layer,
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
  Explainer(std::shared_ptr<Model> model, Watcher& watcher, const Options& options)
      : model_(std::move(model)),
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
          page_->write(explain_html_head("Which words survive in " + model_->info().directory));
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

  // As the tasks read it: cut to the model's limit. A prompt is never cut, as in run.
  Result<Encoding> encode(const Record& record, const TextPair& text) {
    const ModelInfo& info = model_->info();
    if (record.tokens)
      return Encoding{.ids = record.tokens->ids, .type_ids = record.tokens->type_ids};
    const std::shared_ptr<const Tokenizer> tokenizer = model_->tokenizer();
    if (tokenizer == nullptr) {
      return unsupported(
          fmt::format("{} has no tokenizer: give token ids with --ids", info.directory));
    }
    EncodeOptions encode{.origins = Origins::kGive};
    if (!options_.max_tokens) {
      encode.truncation = Truncation{.max_tokens = static_cast<size_t>(info.max_text_tokens),
                                     .side = tokenizer->truncation_side()};
    }
    Result<Encoding> encoding = tokenizer->encode(text, encode);
    if (!encoding.ok()) return encoding;
    if (info.type_vocabulary_size <= 1) encoding->type_ids.clear();
    run_.count_truncated(encoding->truncated ? 1 : 0);
    return encoding;
  }

  Result<Explanation> explain(const Record& record) {
    const std::string first = model_->info().default_prompt + record.text.value_or("");
    TextPair text{first};
    if (record.pair) text.second = *record.pair;
    const Result<Encoding> encoding = encode(record, text);
    if (!encoding.ok()) return encoding.status();
    run_.count_tokens(static_cast<int64_t>(encoding->ids.size()));
    const std::shared_ptr<const Tokenizer> tokenizer = model_->tokenizer();
    Explanation explanation{.text = first,
                            .ids = encoding->ids,
                            .tokens = explained_tokens(tokenizer.get(), text, *encoding),
                            .layers = {},
                            .heads = model_->info().query_heads};
    (void)watcher_.layers();
    const Status status = options_.max_tokens ? continue_prompt(tokenizer.get(), &explanation)
                                              : pass({encoding->ids, encoding->type_ids});
    if (!status.ok()) return status;
    explanation.layers = watcher_.layers();
    find_leavers(&explanation);
    return explanation;
  }

  // As embed or the model's head reads the text, for what that reads never leaves.
  Status pass(const TokenSequence& sequence) {
    if (model_->info().head == Head::kNone) return model_->embed({sequence}).status();
    return model_->forward({sequence}).status();
  }

  // The likeliest tokens one after another; no layer sees the last one.
  Status continue_prompt(const Tokenizer* tokenizer, Explanation* explanation) {
    const auto count = static_cast<int32_t>(*options_.max_tokens);
    const Result<Generation> generated =
        generate(model_, {.prompt_ids = explanation->ids, .max_new_tokens = count});
    if (!generated.ok()) return generated.status();
    explanation->next = "";
    for (size_t i = 0; i < generated->ids.size(); ++i) {
      ExplainedToken token = generated_token(tokenizer, generated->ids[i]);
      if (i + 1 == generated->ids.size()) {
        explanation->next = token.text;
        break;
      }
      explanation->ids.push_back(generated->ids[i]);
      explanation->tokens.push_back(std::move(token));
    }
    return {};
  }

  std::shared_ptr<Model> model_;
  Watcher& watcher_;
  const Options& options_;
  RecordRun run_;
  PaperSize paper_;
  std::unique_ptr<PartialFile> page_;  // null: none was asked for
  bool has_written_ = false;
};

// As the options or the model say, else by the usual schedule.
Status explain(Options& options) {
  Watcher watcher;
  options.model.load.on_pruning = [&watcher](const PruningRecord& record) { watcher.take(record); };
  options.model.load.usual_pruning = kUsualSchedule;
  Result<std::shared_ptr<Model>> model = load_model(options.model);
  if (!model.ok()) return model.status();
  return Explainer(*model, watcher, options).run();
}

}  // namespace

int explain_verb(const Arguments& arguments) {
  Options options;
  options.records.pairs = RecordPair::kOptional;
  Parser parser(kSynopsis);
  add_record_options(parser, &options.records);
  parser.group("Generation");
  parser.add_integer({"-n,--max-tokens", 1, INT32_MAX,
                      "Continue each text by N tokens with a language model, the likeliest ones, "
                      "and show each step."},
                     &options.max_tokens);
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
