#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "base/status.h"
#include "runtime/token_rules.h"
#include "tessera/engine.h"

namespace tessera {

Status check_sampling(const Sampling& sampling);

// NaN, +infinity and nothing but -infinity are errors.
Status check_logits(std::span<const float> logits);
// The first of the largest logits; errors as check_logits. Reads them once.
Result<int32_t> largest_logit(std::span<const float> logits);
// ln(sum(exp(logits))), to (log2(logits) + 8) eps of f32; logits as check_logits wants them.
double log_sum_exp(std::span<const float> logits);
// Applies a repetition penalty to the scores of the tokens seen; a token that occurs twice is
// penalised once. Finite scores stay finite. scores and target: [vocabulary], target a copy of
// scores.
void penalise(std::span<const float> scores, std::span<const int32_t> seen, float penalty,
              std::span<float> target);

// What a draw needs of memory, several numbers a token of the vocabulary: draws one after another
// may share it.
struct SamplerMemory {
  struct Kept {
    int32_t id;
    float weight;
  };
  std::vector<float> penalised;
  std::vector<int32_t> candidates;
  std::vector<float> weights;  // of the candidates
  std::vector<Kept> kept;
};

// Draws tokens of one request; the same seed and logits give the same tokens.
class Sampler {
 public:
  explicit Sampler(const Sampling& sampling, ActiveRules rules = {});
  // The greedy choice is the first of the largest logits. logits: [vocabulary]; errors as
  // check_logits. seen: the ids of prompt and output, for the repetition penalty and the rules.
  // memory: null for some of its own.
  Result<int32_t> next(std::span<const float> logits, std::span<const int32_t> seen = {},
                       SamplerMemory* memory = nullptr);

 private:
  void filter_top_k(std::span<const float> logits, SamplerMemory& memory) const;
  void weigh(std::span<const float> logits, float largest, SamplerMemory& memory) const;
  void filter_by_weight(SamplerMemory& memory) const;
  int32_t draw(const SamplerMemory& memory);

  Sampling sampling_;
  ActiveRules rules_;
  std::mt19937_64 generator_;
};

}  // namespace tessera
