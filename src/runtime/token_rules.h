#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "tessera/engine.h"

namespace tessera {

// The rules of a request refer to tokens of the vocabulary, and their numbers are in range.
Status check_token_rules(const TokenRules& rules, int32_t vocabulary_size);

// TokenRules in force for one request.
class ActiveRules {
 public:
  ActiveRules() = default;
  explicit ActiveRules(const Request& request);

  // Whether apply() can change anything.
  bool any() const { return any_; }
  // Sets the scores of tokens that may not come to -infinity; a forced one gets 0. seen: the ids of
  // prompt and output. scores: [vocabulary].
  void apply(std::span<const int32_t> seen, std::span<float> scores) const;

 private:
  void forbid_repeats(std::span<const int32_t> seen, std::span<float> scores) const;
  void forbid_bad_words(std::span<const int32_t> seen, std::span<float> scores) const;
  void forbid_at_begin_and_end(std::span<const int32_t> seen, std::span<float> scores) const;

  TokenRules rules_;
  std::vector<int32_t> end_ids_;
  size_t prompt_tokens_ = 0;
  size_t max_new_tokens_ = 0;
  bool any_ = false;
};

}  // namespace tessera
