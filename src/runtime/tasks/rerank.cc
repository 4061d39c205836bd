#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string_view>
#include <utility>

#include "base/guarded.h"
#include "runtime/tasks/batching.h"

namespace tessera::tasks {
namespace {

// How relevant a document is by the logits of a cross-encoder.
Result<LabelScores> relevance(const ModelInfo& info) {
  if (info.labels.size() == 1) return info.relevance_scores;
  if (info.labels.size() == 2) return LabelScores::kSoftmax;
  return unsupported(
      fmt::format("rerank expects a classifier with one label, or with two of which the second "
                  "means relevant, found {} labels ({})",
                  info.labels.size(), info.directory));
}

// All in the documents' order.
Result<std::vector<Ranked>> score_pairs(Model& model, const std::string& query,
                                        std::span<const std::string> documents,
                                        const TaskOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const LabelScores scores, relevance(model.info()));
  std::vector<TaskInput> pairs;
  for (const std::string& document : documents) pairs.push_back({query, document, std::nullopt});
  TESSERA_ASSIGN_OR_RETURN(const std::vector<Classification> results,
                           classify(model, pairs, options));
  std::vector<Ranked> relevances;
  for (const Classification& result : results) {
    relevances.push_back({static_cast<int64_t>(relevances.size()),
                          to_scores(result.logits, scores).back(), result.truncated});
  }
  return relevances;
}

// The message without what it calls the only one of its inputs.
std::string without(std::string_view prefix, const std::string& message) {
  return message.starts_with(prefix) ? message.substr(prefix.size()) : message;
}

// The status of a batch as that of the first text that fails alone too.
Status name_culprit(Model& model, const std::vector<TokenSequence>& batch,
                    std::span<const size_t> texts, const Status& status) {
  for (size_t j = 0; j < batch.size(); ++j) {
    const Status alone = model.embed({batch[j]}).status();
    if (alone.ok()) continue;
    return at_input(texts[j], {alone.code(), without("sequence 0: ", alone.message())});
  }
  return status;
}

struct Embeddings {
  std::vector<float> vectors;   // [texts, embedding_size]
  std::vector<char> truncated;  // [texts]
};

// Embeds texts in batches of like length.
Result<Embeddings> embed_all(Model& model, std::span<const std::string> texts,
                             const TaskOptions& options) {
  const size_t limit = embedding_limit(state_of(model));
  std::vector<TokenSequence> sequences;
  for (size_t i = 0; i < texts.size(); ++i) {
    TESSERA_RETURN_IF_ERROR(check_progress(options, 0));
    auto tokens = model.tokenize(texts[i]);
    if (!tokens.ok()) return at_input(i, tokens.status());
    if (tokens->ids.size() > limit && options.too_long == TooLong::kRefuse) {
      return at_input(i, invalid_input(fmt::format("expected at most {} tokens, found {}", limit,
                                                   tokens->ids.size())));
    }
    sequences.push_back(std::move(tokens).value());
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

double dot(std::span<const float> a, std::span<const float> b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

Result<std::vector<Ranked>> compare_embeddings(Model& model, const std::string& query,
                                               std::span<const std::string> documents,
                                               const TaskOptions& options) {
  const auto wanted_vector = embed_all(model, std::span(&query, 1), {.too_long = options.too_long});
  if (!wanted_vector.ok()) {
    return Status(wanted_vector.status().code(),
                  "the query: " + without(name_of(0) + ": ", wanted_vector.status().message()));
  }
  const std::vector<float>& wanted = wanted_vector->vectors;
  TESSERA_ASSIGN_OR_RETURN(const Embeddings found, embed_all(model, documents, options));
  const double wanted_norm = std::sqrt(dot(wanted, wanted));
  std::vector<Ranked> cosines;
  for (size_t i = 0; i < documents.size(); ++i) {
    const auto vector = std::span(found.vectors).subspan(i * wanted.size(), wanted.size());
    const double norms = wanted_norm * std::sqrt(dot(vector, vector));
    const float cosine = norms == 0 ? 0 : static_cast<float>(dot(wanted, vector) / norms);
    cosines.push_back({static_cast<int64_t>(i), cosine, found.truncated[i] != 0});
  }
  return cosines;
}

Result<std::vector<Ranked>> score(Model& model, const std::string& query,
                                  std::span<const std::string> documents,
                                  const TaskOptions& options) {
  const ModelInfo& info = model.info();
  if (info.head == Head::kSequenceClassification) {
    return score_pairs(model, query, documents, options);
  }
  if (!info.is_decoder && (info.head == Head::kNone || info.head == Head::kMaskedLm)) {
    return compare_embeddings(model, query, documents, options);
  }
  return require_head(model, Head::kSequenceClassification, "rerank");
}

}  // namespace
}  // namespace tessera::tasks

namespace tessera {

Result<std::vector<Ranked>> rerank(Model& model, const std::string& query,
                                   std::span<const std::string> documents,
                                   const TaskOptions& options) {
  return guarded("rerank", [&]() -> Result<std::vector<Ranked>> {
    TESSERA_ASSIGN_OR_RETURN(std::vector<Ranked> ranking,
                             tasks::score(model, query, documents, options));
    std::stable_sort(ranking.begin(), ranking.end(),
                     [](const Ranked& a, const Ranked& b) { return a.score > b.score; });
    return ranking;
  });
}

}  // namespace tessera
