#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "tessera/tasks.h"

namespace tessera::tasks {

struct Embeddings {
  std::vector<float> vectors;   // [texts, embedding_size]
  std::vector<char> truncated;  // [texts]
  int64_t tokens = 0;           // read by the model
};

// embed() of texts, as the model says; nothing as prompt: the model's default.
Result<Embeddings> embed_all(Model& model, std::span<const std::string> texts,
                             const TaskOptions& options,
                             const std::optional<std::string>& prompt = std::nullopt);

}  // namespace tessera::tasks
