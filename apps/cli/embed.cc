#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>

#include "cli/record_run.h"
#include "cli/verbs.h"
#include "tessera/tokenizer.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "embed", "MODEL [TEXT ...]",
    "Turns each text into a vector: of the arguments, or of a file or standard input. Prints a "
    "line\n"
    "of numbers for each, in their order. Texts behind -- may begin with -.",
    "  tessera embed models/all-MiniLM-L6-v2 \"A first sentence\" \"A second one\"\n"
    "  tessera embed models/all-MiniLM-L6-v2 --file sentences.txt -o vectors.txt\n"
    "  tessera embed models/all-MiniLM-L6-v2 --file pairs.csv --column question --json\n"
    "  tessera embed models/bert --ids 101,7592,102 --ids 101,2088,102\n"};

// Enough rows to keep the products bound by arithmetic, few enough that activations stay in cache
// and long texts do not need much memory.
constexpr int64_t kBatchTokens = 2048;

struct Options {
  ModelOptions model;
  RecordOptions records;
  std::optional<std::string> output;
  bool json = false;
};

class Embedder {
 public:
  Embedder(Model& model, const Options& options)
      : model_(model), options_(options), run_({"embedding", "texts", options.output}) {}

  Status run() {
    return run_.all(options_.records,
                    [this](std::span<const Record> records) { return embed(records); });
  }

 private:
  Status embed(std::span<const Record> records) {
    Result<std::vector<TokenSequence>> sequences = tokenize(records);
    if (!sequences.ok()) return sequences.status();
    std::vector<size_t> order(records.size());
    std::iota(order.begin(), order.end(), size_t{0});
    // Longest first: what memory is needed is needed at once.
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return (*sequences)[a].ids.size() > (*sequences)[b].ids.size();
    });
    const size_t width = model_.embedding_size();
    std::vector<float> vectors(records.size() * width);
    for (size_t begin = 0; begin < order.size();) {
      if (!run_.progress(static_cast<int64_t>(begin))) return {StatusCode::kCancelled, ""};
      const size_t end = batch_end(*sequences, order, begin);
      Status status =
          embed_batch(*sequences, std::span(order).subspan(begin, end - begin), &vectors);
      if (!status.ok()) return status;
      begin = end;
    }
    for (size_t i = 0; i < records.size(); ++i) {
      Status status =
          write(records[i], (*sequences)[i].ids, std::span(vectors).subspan(i * width, width));
      if (!status.ok()) return status;
    }
    return {};
  }

  Result<std::vector<TokenSequence>> tokenize(std::span<const Record> records) const {
    std::vector<TokenSequence> sequences(records.size());
    std::vector<TextPair> texts(
        records.size());  // empty where there are ids, so that indices agree
    bool has_texts = false;
    for (size_t i = 0; i < records.size(); ++i) {
      if (records[i].tokens) {
        sequences[i] = *records[i].tokens;
      } else {
        texts[i].first = *records[i].text;
        has_texts = true;
      }
    }
    if (!has_texts) return sequences;
    const ModelInfo& info = model_.info();
    if (!info.has_tokenizer) {
      return unsupported(
          fmt::format("{} has no tokenizer: give token ids with --ids", info.directory));
    }
    Result<std::vector<Encoding>> encodings =
        model_.tokenizer()->encode_all(texts, {}, info.threads);
    if (!encodings.ok()) return encodings.status();
    for (size_t i = 0; i < records.size(); ++i) {
      Encoding& encoding = (*encodings)[i];
      if (!records[i].tokens) {
        sequences[i] = {std::move(encoding.ids), std::move(encoding.type_ids)};
      }
    }
    return sequences;
  }

  size_t batch_end(std::span<const TokenSequence> sequences, const std::vector<size_t>& order,
                   size_t begin) const {
    const auto length = [&](size_t i) {
      return std::min<int64_t>(static_cast<int64_t>(sequences[order[i]].ids.size()),
                               model_.info().max_positions);
    };
    size_t end = begin + 1;
    for (int64_t tokens = length(begin); end < order.size(); ++end) {
      tokens += length(end);
      if (tokens > kBatchTokens) break;
    }
    return end;
  }

  // The status of a batch as that of the one input that alone fails too.
  Status name_culprit(const std::vector<TokenSequence>& batch, std::span<const size_t> whose,
                      const Status& status) {
    for (size_t j = 0; j < batch.size(); ++j) {
      const Status alone = model_.embed({batch[j]}).status();
      const std::string prefix = "sequence 0: ";
      if (alone.ok() || !alone.message().starts_with(prefix)) continue;
      return {alone.code(),
              fmt::format("input {}: {}", whose[j], alone.message().substr(prefix.size()))};
    }
    return status;
  }

  Status embed_batch(std::span<const TokenSequence> sequences, std::span<const size_t> whose,
                     std::vector<float>* vectors) {
    std::vector<TokenSequence> batch;
    for (const size_t i : whose) batch.push_back(sequences[i]);
    int64_t truncated = 0;
    Result<std::vector<float>> result = model_.embed(batch, &truncated);
    if (!result.ok()) return name_culprit(batch, whose, result.status());
    const size_t width = model_.embedding_size();
    for (size_t j = 0; j < whose.size(); ++j) {
      std::copy_n(result->begin() + static_cast<int64_t>(j * width), width,
                  vectors->begin() + static_cast<int64_t>(whose[j] * width));
      run_.count_tokens(static_cast<int64_t>(batch[j].ids.size()));
    }
    run_.count_truncated(truncated);
    return {};
  }

  // Shortest decimals that read back as the same floats.
  Status write(const Record& record, const std::vector<int32_t>& ids,
               std::span<const float> vector) {
    line_.clear();
    auto to = std::back_inserter(line_);
    if (!options_.json) {
      fmt::format_to(to, "{}\n", fmt::join(vector, " "));
      return run_.write(line_);
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
    return run_.write(line_);
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

}  // namespace

int embed_verb(const Arguments& arguments) {
  Options options;
  Parser parser(kSynopsis);
  add_record_options(parser, &options.records);
  parser.add_flag("--json", &options.json, "Print lines of {\"text\", \"ids\", \"embedding\"}");
  parser.add_text({"-o,--output", "FILE", "Write to FILE instead of standard output"},
                  &options.output);
  add_model_options(parser, &options.model);
  if (const auto code = parse_records(parser, arguments, &options.records)) return *code;
  return finish(embed(options));
}

}  // namespace tessera::cli
