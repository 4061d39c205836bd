#include "runtime/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tessera {

Status check_sampling(const Sampling& sampling) {
  if (!(sampling.temperature >= 0 && std::isfinite(sampling.temperature))) {
    return invalid_input(
        fmt::format("temperature: expected a number >= 0, found {}", sampling.temperature));
  }
  if (sampling.top_k < 0) {
    return invalid_input(fmt::format("top_k: expected an integer >= 0, found {}", sampling.top_k));
  }
  if (!(sampling.top_p > 0 && sampling.top_p <= 1)) {
    return invalid_input(
        fmt::format("top_p: expected a number in (0, 1], found {}", sampling.top_p));
  }
  return {};
}

Sampler::Sampler(const Sampling& sampling) : sampling_(sampling), generator_(sampling.seed) {}

Result<int32_t> Sampler::next(std::span<const float> logits) {
  size_t largest = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == INFINITY) {
      return invalid_input(
          fmt::format("the model gave no finite scores: expected a number for token {}, found {}",
                      i, logits[i]));
    }
    if (logits[i] > logits[largest]) largest = i;
  }
  if (logits.empty() || logits[largest] == -INFINITY) {
    return invalid_input(
        "the model gave no finite scores: expected at least one above -infinity, found none");
  }
  if (sampling_.temperature == 0) return static_cast<int32_t>(largest);
  filter_top_k(logits);
  const double total = weigh(logits, logits[largest]);
  const double uniform = static_cast<double>(generator_() >> 11) * 0x1.0p-53;
  double left = uniform * total;
  for (size_t i = 0; i < weights_.size(); ++i) {
    left -= weights_[i];
    if (left < 0) return candidates_[i];
  }
  return candidates_[weights_.size() - 1];
}

// Leaves the top_k most probable tokens in candidates_, in order of probability where top_p needs
// it.
void Sampler::filter_top_k(std::span<const float> logits) {
  candidates_.resize(logits.size());
  std::iota(candidates_.begin(), candidates_.end(), 0);
  const auto before = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  if (sampling_.top_k > 0 && static_cast<size_t>(sampling_.top_k) < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + sampling_.top_k, candidates_.end(),
                     before);
    candidates_.resize(static_cast<size_t>(sampling_.top_k));
  }
  if (sampling_.top_p < 1) std::sort(candidates_.begin(), candidates_.end(), before);
}

// Fills weights_ with the unnormalised probabilities of the candidates, the fewest that reach
// top_p; gives their sum.
double Sampler::weigh(std::span<const float> logits, float largest) {
  weights_.resize(candidates_.size());
  double total = 0;
  for (size_t i = 0; i < candidates_.size(); ++i) {
    const double distance =
        static_cast<double>(logits[static_cast<size_t>(candidates_[i])]) - largest;
    weights_[i] = std::exp(distance / sampling_.temperature);
    total += weights_[i];
  }
  if (sampling_.top_p == 1) return total;
  const double wanted = sampling_.top_p * total;
  double kept = 0;
  size_t count = 0;
  while (count < weights_.size() && kept < wanted) kept += weights_[count++];
  weights_.resize(count);
  return kept;
}

}  // namespace tessera
