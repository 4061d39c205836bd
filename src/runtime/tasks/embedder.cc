#include "tessera/embedder.h"

#include <cmath>
#include <numeric>
#include <utility>

#include "base/guarded.h"

namespace tessera {
namespace {

double dot(std::span<const float> a, std::span<const float> b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

}  // namespace

double similarity(Similarity kind, std::span<const float> a, std::span<const float> b) {
  if (kind == Similarity::kDot) return dot(a, b);
  if (kind == Similarity::kCosine) {
    const double norms = std::sqrt(dot(a, a)) * std::sqrt(dot(b, b));
    return norms == 0 ? 0 : dot(a, b) / norms;
  }
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double distance = std::abs(double{a[i]} - b[i]);
    sum += kind == Similarity::kManhattan ? distance : distance * distance;
  }
  return kind == Similarity::kManhattan ? -sum : -std::sqrt(sum);
}

Result<Embedder> Embedder::open(const std::string& directory, const LoadOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(std::shared_ptr<Model> model, Model::load(directory, options));
  if (!model->info().has_tokenizer)
    return not_found(directory +
                     ": expected a tokenizer, without which texts have no tokens, "
                     "found none");
  return Embedder(std::move(model));
}

Embedder::Embedder(std::shared_ptr<Model> model) : model_(std::move(model)) {}

Result<Vectors> Embedder::embed(const std::vector<std::string>& texts,
                                const EmbedOptions& options) const {
  return guarded("texts to vectors", [&]() -> Result<Vectors> {
    std::vector<TaskInput> inputs;
    inputs.reserve(texts.size());
    for (const std::string& text : texts) inputs.push_back({.text = text});
    TESSERA_ASSIGN_OR_RETURN(std::vector<Embedding> found,
                             tessera::embed(*model_, inputs, options));
    Vectors vectors;
    vectors.reserve(found.size());
    for (Embedding& each : found) vectors.push_back(std::move(each.vector));
    return vectors;
  });
}

double Embedder::similarity(std::span<const float> a, std::span<const float> b) const {
  return tessera::similarity(model_->info().similarity, a, b);
}

int32_t Embedder::dimensions() const { return model_->embedding_size(); }

Result<Vectors> embed(const std::string& directory, const std::vector<std::string>& texts,
                      const EmbedOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const Embedder embedder, Embedder::open(directory));
  return embedder.embed(texts, options);
}

}  // namespace tessera
