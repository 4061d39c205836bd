#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace tessera {

enum class Pooling { kFirstToken, kMax, kMean, kMeanSqrtLength, kLastToken };
enum class Normalise { kNo, kYes };

// How a sentence encoder turns the last layer's rows into one vector: poolings one after another,
// then the L2 norm.
struct SentenceEncoder {
  std::vector<Pooling> poolings = {Pooling::kMean};
  Normalise normalise = Normalise::kYes;
  int32_t max_tokens = 0;  // 0: as many as the model takes
  bool declared = false;   // modules.json said so

  int64_t width(int64_t hidden_size) const {
    return hidden_size * static_cast<int64_t>(poolings.size());
  }
  // hidden: [rows, hidden_size]; target: [width].
  void pool(const float* hidden, int64_t rows, int64_t hidden_size, float* target) const;
};

// Reads modules.json and what it names (sentence-transformers' layout: Transformer, Pooling,
// Normalize); the default when the directory has none.
Result<SentenceEncoder> read_sentence_encoder(const std::string& directory);

}  // namespace tessera
