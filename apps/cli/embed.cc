#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>

#include "cli/inputs.h"
#include "cli/terminal.h"
#include "cli/verbs.h"

namespace tessera::cli {
namespace {

constexpr Synopsis kSynopsis = {
    "embed", "MODEL [TEXT ...]",
    "Turns each text into a vector: of the arguments, or of the lines of a file or of standard\n"
    "input. Prints a line of numbers for each, in their order. Texts behind -- may begin with -.",
    "  tessera embed models/all-MiniLM-L6-v2 \"A first sentence\" \"A second one\"\n"
    "  tessera embed models/all-MiniLM-L6-v2 --file sentences.txt -o vectors.txt\n"
    "  tessera embed models/all-MiniLM-L6-v2 --json < sentences.txt\n"
    "  tessera embed models/bert --ids 101,7592,102 --ids 101,2088,102\n"};

// Enough rows to keep the products bound by arithmetic, few enough that activations stay in cache
// and long texts do not need much memory.
constexpr int64_t kBatchTokens = 2048;
// Texts sorted by length at a time; their vectors are held until they can be written in order.
constexpr size_t kChunkTexts = 8192;

struct Options {
  ModelOptions model;
  std::optional<std::string> file, output;
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::string> texts;
  bool json = false;
};

// One thing to embed; text is empty when ids were given.
struct Input {
  std::optional<std::string> text;
  TokenSequence tokens;
};

class Embedder {
 public:
  Embedder(Model& model, const Options& options, Output& out, int64_t total)
      : model_(model),
        options_(options),
        out_(out),
        total_(total),
        progress_(std::in_place, "embedding", total) {}

  // Embeds and writes; may be called again with the next ones.
  Status run(std::span<Input> inputs) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!inputs[i].text) continue;
      Result<TokenSequence> tokens = model_.tokenize(*inputs[i].text);
      if (!tokens.ok()) return at(i, tokens.status());
      inputs[i].tokens = std::move(tokens).value();
    }
    std::vector<size_t> order(inputs.size());
    std::iota(order.begin(), order.end(), size_t{0});
    // Longest first: what memory is needed is needed at once.
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return inputs[a].tokens.ids.size() > inputs[b].tokens.ids.size();
    });
    std::vector<float> vectors(inputs.size() * model_.embedding_size());
    for (size_t begin = 0; begin < order.size();) {
      const size_t end = batch_end(inputs, order, begin);
      Status status = embed(inputs, std::span(order).subspan(begin, end - begin), &vectors);
      if (!status.ok()) return status;
      begin = end;
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      const size_t width = model_.embedding_size();
      Status status = write(inputs[i], std::span(vectors).subspan(i * width, width));
      if (!status.ok()) return status;
    }
    return {};
  }

  // Called once, at the end.
  void report() {
    progress_.reset();
    if (is_terminal(stderr)) {
      const double seconds = seconds_since_start();
      fmt::print(stderr, "[{} texts, {} tokens, {:.1f} texts/s, {:.0f} tokens/s, peak memory {}]\n",
                 done_, tokens_, static_cast<double>(done_) / seconds,
                 static_cast<double>(tokens_) / seconds, human_bytes(peak_memory_bytes()));
    }
    if (truncated_ > 0) {
      fmt::print(stderr, "tessera: {} of {} texts were cut to the model's limit\n", truncated_,
                 done_);
    }
  }

 private:
  size_t batch_end(std::span<const Input> inputs, const std::vector<size_t>& order,
                   size_t begin) const {
    const auto length = [&](size_t i) {
      return std::min<int64_t>(static_cast<int64_t>(inputs[order[i]].tokens.ids.size()),
                               model_.info().max_positions);
    };
    size_t end = begin + 1;
    for (int64_t tokens = length(begin); end < order.size(); ++end) {
      tokens += length(end);
      if (tokens > kBatchTokens) break;
    }
    return end;
  }

  // The status of a batch as that of the one input that alone fails too, counted as the user gave
  // them.
  Status name_culprit(const std::vector<TokenSequence>& sequences, std::span<const size_t> batch,
                      const Status& status) {
    for (size_t j = 0; j < sequences.size(); ++j) {
      const Status alone = model_.embed({sequences[j]}).status();
      const std::string prefix = "sequence 0: ";
      if (alone.ok() || !alone.message().starts_with(prefix)) continue;
      return {alone.code(),
              fmt::format("input {}: {}", batch[j] + 1, alone.message().substr(prefix.size()))};
    }
    return status;
  }

  Status embed(std::span<const Input> inputs, std::span<const size_t> batch,
               std::vector<float>* vectors) {
    std::vector<TokenSequence> sequences;
    for (const size_t i : batch) sequences.push_back(inputs[i].tokens);
    int64_t truncated = 0;
    Result<std::vector<float>> result = model_.embed(sequences, &truncated);
    if (!result.ok()) return name_culprit(sequences, batch, result.status());
    const size_t width = model_.embedding_size();
    for (size_t j = 0; j < batch.size(); ++j) {
      std::copy_n(result->begin() + static_cast<int64_t>(j * width), width,
                  vectors->begin() + static_cast<int64_t>(batch[j] * width));
      tokens_ += static_cast<int64_t>(sequences[j].ids.size());
    }
    truncated_ += truncated;
    done_ += static_cast<int64_t>(batch.size());
    progress_->update(
        done_, fmt::format(", {:.0f} texts/s", static_cast<double>(done_) / seconds_since_start()));
    return {};
  }

  // Shortest decimals that read back as the same floats.
  Status write(const Input& input, std::span<const float> vector) {
    line_.clear();
    auto to = std::back_inserter(line_);
    if (!options_.json) {
      fmt::format_to(to, "{}\n", fmt::join(vector, " "));
      return out_.write(line_);
    }
    const nlohmann::json text = input.text ? nlohmann::json(*input.text) : nlohmann::json();
    fmt::format_to(to, "{{\"text\":{},\"ids\":[{}],\"embedding\":[",
                   text.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                   fmt::join(input.tokens.ids, ","));
    const char* separator = "";
    for (const float x : vector) {
      // JSON has no NaN and no infinity.
      if (std::isfinite(x)) fmt::format_to(to, "{}{}", separator, x);
      if (!std::isfinite(x)) fmt::format_to(to, "{}null", separator);
      separator = ",";
    }
    line_ += "]}\n";
    return out_.write(line_);
  }

  Status at(size_t i, const Status& status) const {
    if (total_ == 1) return status;
    return {status.code(),
            fmt::format("text {}: {}", done_ + static_cast<int64_t>(i) + 1, status.message())};
  }

  double seconds_since_start() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  Model& model_;
  const Options& options_;
  Output& out_;
  int64_t total_;
  std::optional<Progress> progress_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  int64_t done_ = 0;
  int64_t tokens_ = 0;
  int64_t truncated_ = 0;
  std::string line_;
};

Result<std::vector<Input>> read_inputs(const Options& options, const ModelInfo& info) {
  std::vector<Input> inputs;
  for (const std::vector<int32_t>& ids : options.ids) inputs.push_back({std::nullopt, {ids, {}}});
  if (!inputs.empty()) return inputs;
  if (!info.has_tokenizer) {
    return unsupported(
        fmt::format("{} has no tokenizer: give token ids with --ids", info.directory));
  }
  std::vector<std::string> texts = options.texts;
  if (texts.empty()) {
    if (!options.file && is_terminal(stdin)) fmt::print(stderr, "One text a line, then Ctrl-D:\n");
    Result<std::string> text = read_text(options.file.value_or("-"));
    if (!text.ok()) return text.status();
    texts = split_lines(*text);
  }
  for (std::string& text : texts) inputs.push_back({std::move(text), {}});
  return inputs;
}

Status embed(const Options& options) {
  Result<std::shared_ptr<Model>> model = load_model(options.model);
  if (!model.ok()) return model.status();
  Result<std::vector<Input>> inputs = read_inputs(options, (*model)->info());
  if (!inputs.ok()) return inputs.status();
  Output out;
  if (options.output) {
    if (Status status = out.open(*options.output); !status.ok()) return status;
  }
  Embedder embedder(**model, options, out, static_cast<int64_t>(inputs->size()));
  for (size_t begin = 0; begin < inputs->size(); begin += kChunkTexts) {
    const size_t count = std::min(kChunkTexts, inputs->size() - begin);
    Status status = embedder.run(std::span(*inputs).subspan(begin, count));
    if (!status.ok()) return status;
  }
  if (Status status = out.close(); !status.ok()) return status;
  embedder.report();
  return {};
}

}  // namespace

int embed_verb(const Arguments& arguments) {
  Options options;
  const auto app = make_parser(kSynopsis);
  auto* file =
      add_text(*app, {"--file", "FILE", "One text a line (- for standard input)"}, &options.file);
  auto* ids = add_ids(*app, "Embed these token ids; may be given again", &options.ids);
  file->excludes(ids);
  app->add_flag("--json", options.json, "Print lines of {\"text\", \"ids\", \"embedding\"}");
  add_text(*app, {"-o,--output", "FILE", "Write to FILE instead of standard output"},
           &options.output);
  add_model_options(*app, &options.model);
  // Not a CLI11 option: that would take "[a, b]" for a list of two texts.
  app->allow_extras();
  app->parse_complete_callback([&] {
    options.texts = app->remaining();
    for (const std::string& text : options.texts) {
      if (text.size() > 1 && text[0] == '-') usage_error(fmt::format("unknown option {}", text));
    }
  });
  const auto dashes = std::find(arguments.begin(), arguments.end(), "--");
  if (const auto code = parse(*app, {arguments.begin(), dashes})) return *code;
  if (dashes != arguments.end())
    options.texts.insert(options.texts.end(), dashes + 1, arguments.end());
  if (!options.texts.empty() && (options.file || !options.ids.empty())) {
    fmt::print(stderr, "tessera embed: expected texts, --file or --ids, found several\n");
    return kUsage;
  }
  return finish(embed(options));
}

}  // namespace tessera::cli
