#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tessera/export.h"
#include "tessera/model.h"
#include "tessera/status.h"
#include "tessera/tasks.h"

// Texts to vectors, which is all that many programs want of a model.
namespace tessera {

using Vectors = std::vector<std::vector<float>>;

// Loads a model once and turns texts into vectors with it:
//   tessera::Result<tessera::Embedder> embedder = tessera::Embedder::open("all-MiniLM-L6-v2");
//   if (!embedder.ok()) return embedder.status();
//   tessera::Result<tessera::Vectors> vectors = embedder->embed({"A sentence", "Another one"});
//   if (!vectors.ok()) return vectors.status();
//   double closeness = embedder->similarity((*vectors)[0], (*vectors)[1]);
// Copies share the model, and any thread may use one.
class TESSERA_API Embedder {
 public:
  // Reads a Hugging Face directory as Model::load does. kNotFound: it has no tokenizer.
  static Result<Embedder> open(const std::string& directory, const LoadOptions& options = {});
  // Of a model that is loaded; not null.
  explicit Embedder(std::shared_ptr<Model> model);

  // A vector for each text, in their order, as tessera::embed gives them: sentence-transformers
  // directories pool and normalise as their files say. Texts of any lengths run together.
  Result<Vectors> embed(const std::vector<std::string>& texts,
                        const EmbedOptions& options = {}) const;
  // How alike two of these vectors are, as the model compares them (ModelInfo::similarity): larger
  // is closer.
  double similarity(std::span<const float> a, std::span<const float> b) const;

  int32_t dimensions() const;  // of a vector
  const std::shared_ptr<Model>& model() const { return model_; }

 private:
  std::shared_ptr<Model> model_;
};

// Embedder::open(directory) and embed(texts) in one, for programs that ask once.
TESSERA_API Result<Vectors> embed(const std::string& directory,
                                  const std::vector<std::string>& texts,
                                  const EmbedOptions& options = {});

// The cosine or dot product of two vectors of equal size, or the negative of their distance.
TESSERA_API double similarity(Similarity kind, std::span<const float> a, std::span<const float> b);

}  // namespace tessera
