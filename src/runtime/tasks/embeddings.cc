#include "runtime/tasks/embeddings.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

#include "base/guarded.h"
#include "runtime/tasks/batching.h"
#include "runtime/whole_sequences.h"

namespace tessera::tasks {
namespace {

Result<std::string> prompt_of(const ModelInfo& info, const EmbedOptions& options) {
  if (options.prompt && options.prompt_name) {
    return invalid_input("expected a prompt or the name of one, found both");
  }
  if (options.prompt) return *options.prompt;
  if (!options.prompt_name) return info.default_prompt;
  std::string known;
  for (const Prompt& prompt : info.prompts) {
    if (prompt.name == *options.prompt_name) return prompt.text;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", prompt.name);
  }
  return invalid_input(
      fmt::format("prompt_name: expected one of the model's prompts ({}), found \"{}\"",
                  known.empty() ? "there are none" : known, *options.prompt_name));
}

// Embeds inputs as the options say.
class Embedder {
 public:
  Embedder(ModelState& state, const EmbedOptions& options)
      : state_(state), options_(options), encoder_(state.sentence_encoder) {}

  Result<std::vector<Embedding>> run(std::span<const TaskInput> inputs) {
    TESSERA_RETURN_IF_ERROR(prepare());
    TESSERA_ASSIGN_OR_RETURN(std::vector<Sequence> sequences, read(inputs));
    std::vector<Embedding> results(inputs.size());
    std::vector<size_t> order(inputs.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const auto length = [&](size_t i) { return sequences[i].tokens.ids.size(); };
    // Longest first: what memory is needed is needed at once.
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return length(a) > length(b); });
    for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
      for (int64_t tokens = 0; end < order.size(); ++end) {
        tokens += static_cast<int64_t>(length(order[end]));
        if (end > begin && tokens > kBatchTokens) break;
      }
      const auto members = std::span(order).subspan(begin, end - begin);
      TESSERA_RETURN_IF_ERROR(run_batch(members, inputs, sequences, results));
      TESSERA_RETURN_IF_ERROR(check_progress(options_, static_cast<int64_t>(end)));
    }
    return results;
  }

 private:
  Status prepare() {
    TESSERA_ASSIGN_OR_RETURN(prompt_, prompt_of(state_.info, options_));
    if (!options_.poolings.empty()) encoder_.poolings = options_.poolings;
    const bool is_plain = encoder_.kind == SentenceEncoder::Kind::kPlain;
    normalises_ = options_.normalise == Normalise::kYes ||
                  (is_plain && options_.normalise == Normalise::kAsModel);
    if (is_plain || options_.normalise == Normalise::kNo) {
      std::erase_if(encoder_.steps, [](const EmbeddingStep& step) {
        return std::holds_alternative<NormaliseStep>(step);
      });
    }
    const int64_t hidden_size = state_.architecture.hidden_size;
    TESSERA_RETURN_IF_ERROR(encoder_.check(hidden_size, state_.info.directory));
    const int64_t whole = encoder_.whole_width(hidden_size);
    if (options_.dimensions < 0 || options_.dimensions > whole) {
      return invalid_input(fmt::format("dimensions: expected at most the {} of the model, found {}",
                                       whole, options_.dimensions));
    }
    if (options_.dimensions > 0) encoder_.dimensions = options_.dimensions;
    width_ = encoder_.width(hidden_size);
    if (prompt_.empty() || encoder_.prompt_tokens == PromptTokens::kPooled) return {};
    TESSERA_ASSIGN_OR_RETURN(const Tokenizer* tokenizer, tokenizer_for(state_, 0));
    TESSERA_ASSIGN_OR_RETURN(const Encoding alone,
                             tokenizer->encode({prompt_}, {.truncation = text_truncation(state_)}));
    const std::vector<int32_t> special = special_ids(state_);
    skipped_ = static_cast<int64_t>(alone.ids.size());
    if (!special.empty() && !alone.ids.empty() && alone.ids.back() == special.back()) --skipped_;
    return {};
  }

  // Texts behind the prompt, and ids as they are, cut to the limit.
  Result<std::vector<Sequence>> read(std::span<const TaskInput> inputs) const {
    std::vector<TaskInput> prompted(inputs.begin(), inputs.end());
    for (size_t i = 0; i < inputs.size(); ++i) {
      TaskInput& input = prompted[i];
      if (input.pair) return at_input(i, invalid_input("expected one text, found two"));
      if (input.tokens) continue;
      input.text.insert(0, prompt_);
    }
    std::vector<char> truncated(inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!inputs[i].tokens) continue;
      if (options_.too_long == TooLong::kRefuse) {
        TESSERA_RETURN_IF_ERROR(check_length(state_, *inputs[i].tokens, i));
      }
      truncated[i] = cut_to_limit(state_, std::span(&*prompted[i].tokens, 1)) > 0;
    }
    TESSERA_ASSIGN_OR_RETURN(std::vector<Sequence> sequences,
                             to_sequences(state_, prompted, options_, Origins::kOmit));
    for (size_t i = 0; i < inputs.size(); ++i) {
      sequences[i].truncated = sequences[i].truncated || truncated[i] != 0;
    }
    return sequences;
  }

  Status run_batch(std::span<const size_t> members, std::span<const TaskInput> inputs,
                   std::vector<Sequence>& sequences, std::vector<Embedding>& results) {
    // Only texts have a prompt.
    for (const bool is_text : {true, false}) {
      std::vector<TokenSequence> batch;
      std::vector<size_t> whose;
      for (const size_t i : members) {
        if (is_text == inputs[i].tokens.has_value()) continue;
        batch.push_back(std::move(sequences[i].tokens));
        whose.push_back(i);
      }
      const int64_t skipped = is_text ? skipped_ : 0;
      const auto vectors = embed_whole(state_, batch, encoder_, skipped);
      if (!vectors.ok()) return name_culprit(batch, whose, skipped, vectors.status());
      for (size_t j = 0; j < whose.size(); ++j) {
        Embedding& result = results[whose[j]];
        const auto begin = vectors->begin() + static_cast<int64_t>(j) * width_;
        result.vector.assign(begin, begin + width_);
        if (normalises_) normalise(result.vector);
        result.ids = std::move(batch[j].ids);
        result.truncated = sequences[whose[j]].truncated;
      }
    }
    return {};
  }

  // The status of a batch as that of the first input that fails alone too.
  Status name_culprit(const std::vector<TokenSequence>& batch, std::span<const size_t> whose,
                      int64_t skipped, const Status& status) {
    for (size_t j = 0; j < batch.size(); ++j) {
      const Status alone = embed_whole(state_, {batch[j]}, encoder_, skipped).status();
      if (!alone.ok()) return at_input(whose[j], alone);
    }
    return status;
  }

  ModelState& state_;
  const EmbedOptions& options_;
  SentenceEncoder encoder_;  // as the options have it
  std::string prompt_;
  int64_t skipped_ = 0;
  int64_t width_ = 0;
  bool normalises_ = false;
};

}  // namespace

Result<Embeddings> embed_all(Model& model, std::span<const std::string> texts,
                             const TaskOptions& options, const std::optional<std::string>& prompt) {
  EmbedOptions all;
  all.too_long = options.too_long;
  all.on_progress = options.on_progress;
  all.prompt = prompt;
  std::vector<TaskInput> inputs;
  inputs.reserve(texts.size());
  for (const std::string& text : texts) inputs.push_back({text});
  TESSERA_ASSIGN_OR_RETURN(const std::vector<Embedding> found, embed(model, inputs, all));
  Embeddings result;
  for (const Embedding& each : found) {
    result.vectors.insert(result.vectors.end(), each.vector.begin(), each.vector.end());
    result.truncated.push_back(each.truncated);
    result.tokens += static_cast<int64_t>(each.ids.size());
  }
  return result;
}

}  // namespace tessera::tasks

namespace tessera {

Result<std::vector<Embedding>> embed(Model& model, std::span<const TaskInput> inputs,
                                     const EmbedOptions& options) {
  return guarded("embed", [&] { return tasks::Embedder(state_of(model), options).run(inputs); });
}

}  // namespace tessera
