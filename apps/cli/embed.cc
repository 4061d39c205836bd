#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>

#include "cli/record_run.h"
#include "cli/verbs.h"
#include "tessera/tasks.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "embed", "MODEL [TEXT ...]",
    "Turns each text into a vector: each TEXT, or each input of a file or of standard input. "
    "Prints "
    "one line of numbers for each, in their order. Put -- before texts that start with -.",
    "  tessera embed MODEL \"A first sentence\" \"A second one\"\n"
    "  tessera embed MODEL --file sentences.txt -o vectors.npy\n"
    "  tessera embed MODEL --file texts.csv --column text -o vectors.npy\n"
    "  tessera embed MODEL --ids 101,7592,102 --ids 101,2088,102\n"};

struct Options {
  ModelOptions model;
  RecordOptions records;
  std::optional<std::string> output;
  bool json = false;
  EmbedOptions embedding;
};

ResultOptions results_of(const Options& options) {
  return {options.output, options.json, ResultKind::kVectors, {"text", "ids", "embedding"}};
}

class Embedder {
 public:
  Embedder(Model& model, const Options& options)
      : model_(model), options_(options), run_({"embedding", "texts", results_of(options)}) {}

  Status run() {
    return run_.all(options_.records,
                    [this](std::span<const Record> records) { return embed(records); });
  }

 private:
  Status embed(std::span<const Record> records) {
    const bool has_texts = std::any_of(records.begin(), records.end(),
                                       [](const Record& record) { return !record.tokens; });
    if (has_texts && !model_.info().has_tokenizer) {
      return unsupported(
          fmt::format("{} has no tokenizer: give token ids with --ids", model_.info().directory));
    }
    EmbedOptions options = options_.embedding;
    options.on_progress = [this](int64_t done) { return run_.progress(done); };
    Result<std::vector<Embedding>> results = tessera::embed(model_, as_inputs(records), options);
    if (!results.ok()) return results.status();
    for (size_t i = 0; i < records.size(); ++i) {
      const Embedding& result = (*results)[i];
      run_.count_tokens(static_cast<int64_t>(result.ids.size()));
      run_.count_truncated(result.truncated ? 1 : 0);
      Status status = run_.writes_vectors() ? run_.write(records[i], result.vector)
                                            : write(records[i], result.ids, result.vector);
      if (!status.ok()) return status;
    }
    return {};
  }

  // Shortest decimals that read back as the same floats.
  Status write(const Record& record, const std::vector<int32_t>& ids,
               std::span<const float> vector) {
    line_.clear();
    auto to = std::back_inserter(line_);
    if (!run_.writes_json()) {
      fmt::format_to(to, "{}\n", fmt::join(vector, " "));
      return run_.write(record, line_);
    }
    const nlohmann::json text = record.text ? nlohmann::json(*record.text) : nlohmann::json();
    fmt::format_to(to, "{{\"text\":{},\"ids\":[{}],\"embedding\":[", text.dump(),
                   fmt::join(ids, ","));
    const char* separator = "";
    for (const float x : vector) {
      // JSON has no NaN and no infinity.
      if (std::isfinite(x)) fmt::format_to(to, "{}{}", separator, x);
      if (!std::isfinite(x)) fmt::format_to(to, "{}null", separator);
      separator = ",";
    }
    line_ += "]}\n";
    return run_.write(record, line_);
  }

  Model& model_;
  const Options& options_;
  RecordRun run_;
  std::string line_;
};

Status embed(const Options& options) {
  Result<std::shared_ptr<Model>> model = load_model(options.model);
  if (!model.ok()) return model.status();
  return Embedder(**model, options).run();
}

std::vector<Pooling> parse_poolings(const std::string& text) {
  std::vector<Pooling> poolings;
  for (const std::string& part : split_at_commas(text)) {
    check_choice("--pooling", choices_of<Pooling>(), part);
    poolings.push_back(*parse<Pooling>(part));
  }
  return poolings;
}

struct EmbeddingFlags {
  std::optional<int64_t> dimensions;
  bool normalize = false;
  bool leave_length = false;
};

// How texts become vectors, where that is not as the model says.
void add_embedding_options(Parser& parser, EmbedOptions* options, EmbeddingFlags* flags) {
  parser.group("Embedding");
  const Option prompt =
      parser.add_text({"--prompt", "TEXT", "Put TEXT before each text."}, &options->prompt);
  parser
      .add_text({"--prompt-name", "NAME",
                 "Put the model's prompt of this name before each text (default: the model's "
                 "default prompt, if it has one)."},
                &options->prompt_name)
      .excludes({prompt});
  parser.add_integer(
      {"--dimensions", 1, INT32_MAX,
       "Keep only the first N numbers of each vector (default: as the model says, else "
       "all)."},
      &flags->dimensions);
  parser.add_text({"--pooling", "HOW",
                   fmt::format("Combine a text's token states by {}; several, separated by commas, "
                               "stand side by side (default: the model's).",
                               either_of(choices_of<Pooling>()))},
                  [options](const std::string& text) { options->poolings = parse_poolings(text); });
  const Option normalize = parser.add_flag(
      "--normalize", &flags->normalize,
      "Scale every vector to length 1, after --dimensions (default: as the model says).");
  parser
      .add_flag("--no-normalize", &flags->leave_length,
                "Leave every vector at its length (default: as the model says).")
      .excludes({normalize});
}

}  // namespace

int embed_verb(const Arguments& arguments) {
  Options options;
  Parser parser(kSynopsis);
  add_record_options(parser, &options.records);
  EmbeddingFlags flags;
  add_embedding_options(parser, &options.embedding, &flags);
  parser.group("Output");
  parser.add_flag("--json", &options.json,
                  "Print one JSON object per text: {\"text\", \"ids\", \"embedding\"}.");
  parser.add_text({"-o,--output", "FILE",
                   "Write to FILE instead of standard output: by its ending a matrix (.npy, "
                   ".safetensors), a table (.csv, .tsv), JSON lines (.jsonl) or lines of numbers."},
                  &options.output);
  add_model_options(parser, &options.model);
  add_trace_option(parser, &options.model);
  parser.then([&] { (void)format_of(results_of(options)); });
  if (const auto code = parse_records(parser, arguments, &options.records)) return *code;
  options.embedding.dimensions = static_cast<int32_t>(flags.dimensions.value_or(0));
  if (flags.normalize) options.embedding.normalise = Normalise::kYes;
  if (flags.leave_length) options.embedding.normalise = Normalise::kNo;
  return finish(embed(options), options.model);
}

}  // namespace tessera::cli
