#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "base/status.h"
#include "tessera/engine.h"

namespace tessera {

Status check_sampling(const Sampling& sampling);

// Draws tokens of one request; the same seed and logits give the same tokens.
class Sampler {
 public:
  explicit Sampler(const Sampling& sampling);
  // The greedy choice is the first of the largest logits. logits: [vocabulary]; NaN, +infinity and
  // nothing but -infinity are errors.
  Result<int32_t> next(std::span<const float> logits);

 private:
  void filter_top_k(std::span<const float> logits);
  double weigh(std::span<const float> logits, float largest);

  Sampling sampling_;
  std::mt19937_64 generator_;
  std::vector<int32_t> candidates_;
  std::vector<double> weights_;
};

}  // namespace tessera
