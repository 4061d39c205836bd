#pragma once

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

// Embeds texts in batches of like length, encoded on all threads. Messages count the texts as
// "input 3: ...".
Result<Embeddings> embed_all(Model& model, std::span<const std::string> texts,
                             const TaskOptions& options);

}  // namespace tessera::tasks
