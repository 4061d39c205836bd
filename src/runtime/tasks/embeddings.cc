#include "runtime/tasks/embeddings.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <string_view>

#include "runtime/tasks/batching.h"

namespace tessera::tasks {
namespace {

// Texts encoded between two looks at whether the caller wants to stop.
constexpr size_t kTextsAtATime = 1024;

// The status of a batch as that of the first text that fails alone too.
Status name_culprit(Model& model, const std::vector<TokenSequence>& batch,
                    std::span<const size_t> texts, const Status& status) {
  constexpr std::string_view kPrefix = "sequence 0: ";
  for (size_t j = 0; j < batch.size(); ++j) {
    const Status alone = model.embed({batch[j]}).status();
    if (alone.ok()) continue;
    const std::string& message = alone.message();
    return at_input(
        texts[j],
        {alone.code(), message.starts_with(kPrefix) ? message.substr(kPrefix.size()) : message});
  }
  return status;
}

// All of the texts, as long as they are.
Result<std::vector<TokenSequence>> encode(const ModelState& state,
                                          std::span<const std::string> texts,
                                          const TaskOptions& options) {
  std::vector<TokenSequence> sequences;
  sequences.reserve(texts.size());
  for (size_t begin = 0; begin < texts.size(); begin += kTextsAtATime) {
    TESSERA_RETURN_IF_ERROR(check_progress(options, 0));
    const size_t end = std::min(begin + kTextsAtATime, texts.size());
    TESSERA_ASSIGN_OR_RETURN(const Tokenizer* tokenizer, tokenizer_for(state, begin));
    std::vector<TextPair> chunk;
    chunk.reserve(end - begin);
    for (const std::string& text : texts.subspan(begin, end - begin)) chunk.push_back({text});
    auto encodings = tokenizer->encode_all(chunk, {}, state.info.threads);
    if (!encodings.ok()) {
      // It counts the texts of the chunk.
      for (size_t i = begin; i < end; ++i) {
        const Status alone = tokenizer->encode({texts[i]}).status();
        if (!alone.ok()) return at_input(i, alone);
      }
      return encodings.status();
    }
    for (Encoding& encoding : *encodings) {
      sequences.push_back({std::move(encoding.ids), std::move(encoding.type_ids)});
    }
  }
  return sequences;
}

}  // namespace

Result<Embeddings> embed_all(Model& model, std::span<const std::string> texts,
                             const TaskOptions& options) {
  const size_t limit = embedding_limit(state_of(model));
  TESSERA_ASSIGN_OR_RETURN(std::vector<TokenSequence> sequences,
                           encode(state_of(model), texts, options));
  for (size_t i = 0; i < texts.size() && options.too_long == TooLong::kRefuse; ++i) {
    if (sequences[i].ids.size() <= limit) continue;
    return at_input(i, invalid_input(fmt::format("expected at most {} tokens, found {}", limit,
                                                 sequences[i].ids.size())));
  }
  std::vector<size_t> order(texts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto length = [&](size_t i) { return std::min(sequences[i].ids.size(), limit); };
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return length(a) > length(b); });
  const size_t width = static_cast<size_t>(model.embedding_size());
  Embeddings result{std::vector<float>(texts.size() * width), std::vector<char>(texts.size())};
  for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    std::vector<TokenSequence> batch;
    for (int64_t tokens = 0; end < order.size(); ++end) {
      tokens += static_cast<int64_t>(length(order[end]));
      if (end > begin && tokens > kBatchTokens) break;
      result.tokens += static_cast<int64_t>(length(order[end]));
      batch.push_back(std::move(sequences[order[end]]));
    }
    const auto part = model.embed(batch);
    if (!part.ok()) {
      return name_culprit(model, batch, std::span(order).subspan(begin), part.status());
    }
    for (size_t j = 0; j < batch.size(); ++j) {
      std::copy_n(part->begin() + static_cast<int64_t>(j * width), width,
                  result.vectors.begin() + static_cast<int64_t>(order[begin + j] * width));
      result.truncated[order[begin + j]] = batch[j].ids.size() > limit;
    }
    TESSERA_RETURN_IF_ERROR(check_progress(options, static_cast<int64_t>(end)));
  }
  return result;
}

}  // namespace tessera::tasks
