#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <span>

#include "cli/inputs.h"
#include "cli/record_run.h"
#include "cli/verbs.h"
#include "tessera/tokenizer.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "tokenize", "MODEL [TEXT ...]",
    "Turns texts into token ids and, with --decode, ids into texts: each TEXT, or each line of a "
    "file or of standard input. Prints one line for each, in their order. Only the tokenizer is "
    "loaded.",
    "  tessera tokenize models/tales \"Once upon a time\"\n"
    "  tessera tokenize models/tales --file stories.txt -o ids.txt\n"
    "  tessera tokenize models/tales --decode 2565,674\n"
    "  echo '{\"text\": \"a question\", \"pair\": \"its context\"}' | tessera tokenize MODEL "
    "--json\n"
    "  echo '{\"ids\": [101, 7592, 102]}' | tessera tokenize MODEL --decode --json\n"};

struct Options {
  std::string directory;
  int threads = 0;
  RecordOptions records;
  std::optional<std::string> output;
  std::optional<int64_t> max_tokens;
  bool decode = false;
  bool no_special = false;
  bool json = false;
};

ResultOptions results_of(const Options& options) {
  return {options.output,
          options.json,
          ResultKind::kTexts,
          {"ids", "type_ids", "tokens", "offsets", "text"}};
}

// Counts characters up to bytes of a text; cheap where the bytes asked for are near the last ones.
class CharacterCounter {
 public:
  explicit CharacterCounter(std::string_view text) : text_(text) {}
  uint32_t before(uint32_t byte) {
    for (; byte_ < byte; ++byte_) characters_ += begins(byte_);
    for (; byte_ > byte; --byte_) characters_ -= begins(byte_ - 1);
    return characters_;
  }

 private:
  uint32_t begins(uint32_t i) const {
    return (static_cast<unsigned char>(text_[i]) & 0xC0) != 0x80 ? 1 : 0;
  }
  std::string_view text_;
  uint32_t byte_ = 0;
  uint32_t characters_ = 0;
};

class Converter {
 public:
  Converter(const Tokenizer& tokenizer, const Options& options)
      : tokenizer_(tokenizer),
        options_(options),
        shows_tokens_(!options.json && !options.output && is_terminal(stdout)),
        run_({.label = options.decode ? "decoding" : "tokenizing",
              .results = results_of(options),
              .chunk = {}}),
        tokens_(static_cast<size_t>(tokenizer.vocabulary_size())) {}

  Status run() {
    return run_.all(options_.records, [this](std::span<const Record> records) {
      return options_.decode ? decode(records) : encode(records);
    });
  }

 private:
  Status encode(std::span<const Record> records) {
    EncodeOptions options;
    if (options_.no_special) options.special = SpecialTokens::kOmit;
    if (options_.max_tokens) {
      options.truncation = Truncation{static_cast<size_t>(*options_.max_tokens)};
    }
    if (options_.json) options.origins = Origins::kGive;
    std::vector<TextPair> texts;
    texts.reserve(records.size());
    for (const Record& record : records) texts.push_back({*record.text, record.pair});
    Result<std::vector<Encoding>> encodings =
        tokenizer_.encode_all(texts, options, options_.threads);
    if (!encodings.ok()) return encodings.status();
    for (size_t i = 0; i < texts.size(); ++i) {
      run_.count_tokens(static_cast<int64_t>((*encodings)[i].ids.size()));
      line_.clear();
      add_line(texts[i], (*encodings)[i]);
      if (Status status = run_.write(records[i], line_); !status.ok()) return status;
    }
    return {};
  }

  void add_line(const TextPair& text, const Encoding& encoding) {
    if (options_.json) {
      add_json(text, encoding);
      return;
    }
    const char* separator = "";
    if (shows_tokens_) {
      for (const int32_t id : encoding.ids) {
        // As JSON writes it, less the quotes: no control character reaches the terminal.
        const std::string_view token = json_of(id);
        line_ += separator;
        line_ += token.substr(1, token.size() - 2);
        separator = " ";
      }
      line_ += '\n';
    }
    line_ += join_ids(encoding.ids);
    line_ += '\n';
  }

  void add_json(const TextPair& text, const Encoding& encoding) {
    auto to = std::back_inserter(line_);
    fmt::format_to(to, "{{\"ids\":[{}],\"type_ids\":[{}],\"tokens\":[",
                   fmt::join(encoding.ids, ","), fmt::join(encoding.type_ids, ","));
    const char* separator = "";
    for (const int32_t id : encoding.ids) {
      line_ += separator;
      line_ += json_of(id);
      separator = ",";
    }
    line_ += "],\"offsets\":[";
    CharacterCounter counters[] = {CharacterCounter(text.first),
                                   CharacterCounter(text.second.value_or(std::string_view()))};
    separator = "";
    for (const TokenOrigin& origin : encoding.origins) {
      uint32_t begin = 0, end = 0;
      if (origin.text >= 0) {
        CharacterCounter& counter = counters[origin.text];
        begin = counter.before(origin.begin);
        end = counter.before(origin.end);
      }
      fmt::format_to(to, "{}[{},{}]", separator, begin, end);
      separator = ",";
    }
    line_ += "]}\n";
  }

  const std::string& json_of(int32_t id) {
    std::string& token = tokens_[static_cast<size_t>(id)];
    if (token.empty()) {
      token = nlohmann::json(tokenizer_.token_of(id))
                  .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    }
    return token;
  }

  Status decode(std::span<const Record> records) {
    const DecodeSpecial special = options_.no_special ? DecodeSpecial::kSkip : DecodeSpecial::kKeep;
    std::vector<std::string> texts;
    for (size_t i = 0; i < records.size(); ++i) {
      if (!run_.progress(static_cast<int64_t>(i))) return {StatusCode::kCancelled, ""};
      Result<std::string> text = tokenizer_.decode(records[i].tokens->ids, special);
      if (!text.ok()) {
        return {text.status().code(), fmt::format("input {}: {}", i, text.status().message())};
      }
      run_.count_tokens(static_cast<int64_t>(records[i].tokens->ids.size()));
      texts.push_back((options_.json ? nlohmann::json{{"text", *text}}.dump() : *text) + "\n");
    }
    for (size_t i = 0; i < records.size(); ++i) {
      if (Status status = run_.write(records[i], texts[i]); !status.ok()) return status;
    }
    return {};
  }

  const Tokenizer& tokenizer_;
  const Options& options_;
  bool shows_tokens_;
  RecordRun run_;
  std::vector<std::string> tokens_;  // by id, as JSON, where it was needed
  std::string line_;
};

Status tokenize(const Options& options) {
  auto tokenizer = Tokenizer::open(options.directory);
  if (!tokenizer.ok()) return tokenizer.status();
  return Converter(**tokenizer, options).run();
}

// What the flags say of the inputs.
void settle(Options* options) {
  RecordOptions& records = options->records;
  records.content = options->decode ? RecordContent::kIds : RecordContent::kText;
  if (options->json) {
    records.usual = RecordFormat::kJsonLines;
  } else if (options->decode) {
    records.usual = RecordFormat::kIds;
  }
  options->json = format_of(results_of(*options)) == ResultFormat::kJson;
  if (options->decode && options->max_tokens) {
    both_given("--decode", "--max-tokens");
  }
}

}  // namespace

int tokenize_verb(const Arguments& arguments) {
  Options options;
  options.records.pairs = RecordPair::kOptional;
  Parser parser(kSynopsis);
  parser.group("Tokens");
  parser.add_flag("--decode", &options.decode, "Turn token ids into texts.");
  parser.add_flag("--no-special", &options.no_special,
                  "Leave out the special tokens that are put around texts; with --decode, all "
                  "special tokens.");
  parser.add_integer(
      {"-n,--max-tokens", 1, INT32_MAX, "Cut each text to N tokens, counting special ones."},
      &options.max_tokens);
  add_record_options(parser, &options.records);
  parser.group("Output");
  parser.add_flag("--json", &options.json,
                  "Read and print JSON lines: {\"text\", \"pair\"} gives {\"ids\", \"type_ids\", "
                  "\"tokens\", \"offsets\"}, with offsets in characters; with --decode, {\"ids\"} "
                  "gives {\"text\"}.");
  parser.add_text({"-o,--output", "FILE",
                   "Write to FILE instead of standard output, as JSON lines if it ends in .jsonl."},
                  &options.output);
  add_directory_options(parser, &options.directory, &options.threads);
  parser.then([&] { settle(&options); });
  if (const auto code = parse_records(parser, arguments, &options.records)) return *code;
  return finish(tokenize(options));
}

}  // namespace tessera::cli
