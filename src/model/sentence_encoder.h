#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "io/model_directory.h"
#include "model/embedding_steps.h"
#include "model/pooling.h"
#include "tessera/model.h"

namespace tessera {

// How a directory's texts become vectors, or scores: what sentence-transformers reads of it beside
// the model itself.
struct SentenceEncoder {
  // What modules.json, config_sentence_transformers.json and the Transformer's own settings make of
  // the directory. kPlain: there is no modules.json.
  enum class Kind { kPlain, kEmbeddings, kClassifier };

  Kind kind = Kind::kPlain;
  std::vector<Pooling> poolings = {Pooling::kMean};
  PromptTokens prompt_tokens = PromptTokens::kPooled;
  std::vector<EmbeddingStep> steps = {NormaliseStep()};  // behind the pooling
  int32_t dimensions = 0;  // the first so many numbers of a vector only; 0: all
  int32_t max_tokens = 0;  // 0: as many as the model takes
  std::vector<Prompt> prompts;
  std::string default_prompt;  // its text; may be empty
  Similarity similarity = Similarity::kCosine;
  std::optional<LabelScores> relevance_scores;  // of a cross-encoder, where a file says

  // The width of the vectors, and what it is before they are cut to their first numbers.
  int64_t width(int64_t hidden_size) const;
  int64_t whole_width(int64_t hidden_size) const;
  // The steps fit each other and the model.
  Status check(int64_t hidden_size, const std::string& directory) const;
  // target: [width].
  void embed(const PooledRows& rows, float* target) const;
};

// Reads modules.json and what it names. Modules that Tessera does not run are kUnsupported.
Result<SentenceEncoder> read_sentence_encoder(const ModelDirectory& home);

// The module path of a PyTorch activation, as "torch.nn.modules.activation.Tanh", to what makes
// scores of a cross-encoder's logits.
Result<LabelScores> read_score_activation(std::string_view path, const std::string& source);

}  // namespace tessera
