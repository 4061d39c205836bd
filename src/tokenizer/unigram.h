#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "tokenizer/components.h"

namespace tessera::tokenizer {

// Longer tokens are taken for damage: the time for a text grows with the longest token.
inline constexpr size_t kLongestPieceBytes = 8000;

struct UnigramTokens {
  Vocabulary vocabulary;
  std::vector<double> scores;     // by id: log-probabilities, finite
  std::vector<int32_t> searched;  // the ids that may be found in a text
  double least_score = 0;         // what an unknown character must undercut
};

// Path scores as the reference sums them, so that ties fall as they do there: the `tokenizers`
// library in f64, SentencePiece in f32.
enum class ScorePrecision { kSingle, kDouble };
// Neighbouring unknown characters are one unknown token, or first looked up as if they were a
// token.
enum class JoinedUnknowns { kUnknown, kLookedUp };

struct UnigramOptions {
  int32_t unk_id = kNoToken;
  bool byte_fallback = false;
  ScorePrecision precision = ScorePrecision::kDouble;
  JoinedUnknowns joined_unknowns = JoinedUnknowns::kLookedUp;
  std::vector<bool> user_defined;  // by id (empty: none): tokens scored by their length alone
};

// The most probable split of a text into tokens, each as probable as its score says whatever its
// neighbours (Kudo 2018), by the Viterbi algorithm.
std::unique_ptr<Model> make_unigram(UnigramTokens tokens, UnigramOptions options);

}  // namespace tessera::tokenizer
