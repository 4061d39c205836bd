#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/guarded.h"
#include "runtime/tasks/batching.h"
#include "runtime/tasks/embeddings.h"
#include "tessera/embedder.h"

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

// The prompt of that name, where the model has one.
std::optional<std::string> prompt_for(const ModelInfo& info, std::string_view name) {
  for (const Prompt& prompt : info.prompts) {
    if (prompt.name == name) return prompt.text;
  }
  return std::nullopt;
}

Result<std::vector<Ranked>> compare_embeddings(Model& model, const std::string& query,
                                               std::span<const std::string> documents,
                                               const TaskOptions& options) {
  const ModelInfo& info = model.info();
  const auto wanted_vector = embed_all(model, std::span(&query, 1), {.too_long = options.too_long},
                                       prompt_for(info, "query"));
  if (!wanted_vector.ok()) {
    return Status(wanted_vector.status().code(),
                  "the query: " + without(name_of(0) + ": ", wanted_vector.status().message()));
  }
  const std::vector<float>& wanted = wanted_vector->vectors;
  TESSERA_ASSIGN_OR_RETURN(const Embeddings found,
                           embed_all(model, documents, options, prompt_for(info, "document")));
  std::vector<Ranked> ranked;
  for (size_t i = 0; i < documents.size(); ++i) {
    const auto vector = std::span(found.vectors).subspan(i * wanted.size(), wanted.size());
    const double score = similarity(info.similarity, wanted, vector);
    ranked.push_back({static_cast<int64_t>(i), static_cast<float>(score), found.truncated[i] != 0});
  }
  return ranked;
}

Result<std::vector<Ranked>> score(Model& model, const std::string& query,
                                  std::span<const std::string> documents,
                                  const TaskOptions& options) {
  const ModelInfo& info = model.info();
  if (info.head == Head::kSequenceClassification) {
    return score_pairs(model, query, documents, options);
  }
  if (info.is_sentence_encoder ||
      (!info.is_decoder && (info.head == Head::kNone || info.head == Head::kMaskedLm))) {
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
