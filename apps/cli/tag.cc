#include <fmt/format.h>

#include "cli/task_verb.h"
#include "cli/verbs.h"
#include "tessera/tokenizer.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "tag", "MODEL [TEXT ...]",
    "Finds the entities in each text: names, places, whatever the model labels its tokens with. "
    "Reads each TEXT, or each line of a file or of standard input, and prints one line for each, "
    "in "
    "their order; - means none. Offsets of --json count characters (code points).",
    "  tessera tag MODEL \"Ada Lovelace lived in London.\"\n"
    "  tessera tag MODEL --file notes.txt --json --aggregation first\n"
    "  tessera tag MODEL --json --tokens \"Time flies.\"\n"};

struct Options {
  TaskVerb task;
  Aggregation aggregation = Aggregation::kTokens;
  bool tokens = false;
};

class Tags {
 public:
  Tags(Model& model, const Options& options)
      : model_(model), options_(options), info_(model.info()), tokenizer_(model.tokenizer()) {}

  Status run(std::span<const Record> records, RecordRun& run) {
    auto task = task_options<TagOptions>(options_.task, run);
    task.aggregation = options_.aggregation;
    Result<std::vector<Tagging>> results = tag(model_, as_inputs(records), task);
    if (!results.ok()) return results.status();
    for (size_t i = 0; i < records.size(); ++i) {
      const Tagging& result = (*results)[i];
      run.count_tokens(static_cast<int64_t>(result.tokens.size()));
      run.count_truncated(result.truncated ? 1 : 0);
      const Status status =
          run.write(records[i], options_.task.json ? json(records[i], result) : plain(result));
      if (!status.ok()) return status;
    }
    return {};
  }

 private:
  static std::string plain(const Tagging& result) {
    std::string line;
    for (const Entity& entity : result.entities) {
      const std::string what =
          entity.text.empty()
              ? fmt::format("tokens {}-{}", entity.span.begin_token, entity.span.end_token - 1)
              : on_one_line(entity.text);
      line += fmt::format("{}{} [{} {:.4f}]", line.empty() ? "" : "  ", what, entity.label,
                          entity.score);
    }
    return line.empty() ? "-\n" : line + "\n";
  }

  static std::string json(const Entity& entity, const CharacterIndex* characters) {
    JsonLine entry;
    entry.text("label", entity.label).number("score", entity.score);
    if (characters != nullptr) {
      entry.text("text", entity.text);
      entry.integer("start", characters->of(entity.span.begin_byte));
      entry.integer("end", characters->of(entity.span.end_byte));
    }
    entry.integer("start_token", entity.span.begin_token);
    entry.integer("end_token", entity.span.end_token);
    return entry.object();
  }

  std::string json(const TaggedToken& token, const CharacterIndex* characters) const {
    JsonLine entry;
    entry.integer("id", token.id);
    if (tokenizer_ != nullptr) entry.text("token", tokenizer_->token_of(token.id));
    entry.text("label", info_.labels[static_cast<size_t>(token.label)]);
    entry.number("score", token.score);
    if (characters != nullptr) {
      entry.integer("start", characters->of(token.span.begin_byte));
      entry.integer("end", characters->of(token.span.end_byte));
    }
    entry.truth("special", token.special);
    return entry.object();
  }

  std::string json(const Record& record, const Tagging& result) const {
    std::optional<CharacterIndex> index;
    if (!record.tokens) index.emplace(record.text.value_or(""));
    const CharacterIndex* characters = index ? &*index : nullptr;
    JsonLine line;
    add_record(record, &line);
    std::vector<std::string> entities, tokens;
    for (const Entity& entity : result.entities) entities.push_back(json(entity, characters));
    line.raw("entities", json_array(entities));
    if (options_.tokens) {
      for (const TaggedToken& token : result.tokens) tokens.push_back(json(token, characters));
      line.raw("tokens", json_array(tokens));
    }
    if (options_.task.logits) line.raw("logits", json_rows(result.logits, info_.labels.size()));
    line.truth("truncated", result.truncated);
    return line.line();
  }

  Model& model_;
  const Options& options_;
  const ModelInfo& info_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

Status tag_records(const Options& options) {
  constexpr Head kHeads[] = {Head::kTokenClassification};
  Result<std::shared_ptr<Model>> model = load_for(options.task, kHeads);
  if (!model.ok()) return model.status();
  Tags tags(**model, options);
  RecordRun run(
      {"tagging", "texts",
       results_of(options.task, {"text", "ids", "entities", "tokens", "logits", "truncated"})});
  return run.all(options.task.records,
                 [&](std::span<const Record> records) { return tags.run(records, run); });
}

}  // namespace

int tag_verb(const Arguments& arguments) {
  Options options;
  Parser parser(kSynopsis);
  parser.group("Output");
  parser.add_choice(
      {"--aggregation", "HOW",
       "Build entities from tokens, or from words labelled by their first token (first), by the "
       "highest mean score (mean) or by their surest token (max) (default: tokens).",
       choices_of<Aggregation>()},
      [&](const std::string& text) { options.aggregation = *parse<Aggregation>(text); });
  parser.add_flag("--tokens", &options.tokens,
                  "Add every token and its label to the output of --json.");
  add_refuse_long(parser, &options.task);
  add_task_options(
      parser,
      {"Print one JSON object per text: {\"text\", \"entities\": [{\"label\", \"score\", "
       "\"text\", \"start\", \"end\", ...}], ...}.",
       "Add the logits of every token to the output of --json."},
      &options.task);
  parser.option("--tokens").needs(parser.option("--json"));
  if (const auto code = parse_task(parser, arguments, &options.task)) return *code;
  return finish(tag_records(options), options.task.model);
}

}  // namespace tessera::cli
