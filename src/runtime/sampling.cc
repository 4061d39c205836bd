#include "runtime/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

namespace tessera {
namespace {

// Integers in the order of the floats, so that a loop over them is vectorised: both zeros are one,
// and NaN stands before -infinity or behind +infinity, by its sign.
constexpr int32_t ordered(float x) {
  const auto bits = std::bit_cast<int32_t>(x + 0.0f);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
constexpr int32_t kFirst = ordered(-INFINITY);
constexpr int32_t kLast = ordered(INFINITY);

// The order of probability.
struct Before {
  std::span<const float> logits;
  bool operator()(int32_t a, int32_t b) const {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  }
};

}  // namespace

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
  if (!(sampling.min_p >= 0 && sampling.min_p <= 1)) {
    return invalid_input(
        fmt::format("min_p: expected a number in [0, 1], found {}", sampling.min_p));
  }
  if (!(sampling.repetition_penalty > 0 && std::isfinite(sampling.repetition_penalty))) {
    return invalid_input(fmt::format("repetition_penalty: expected a number > 0, found {}",
                                     sampling.repetition_penalty));
  }
  return {};
}

Status check_logits(std::span<const float> logits) {
  bool any = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == INFINITY) {
      return invalid_input(
          fmt::format("the model gave no finite scores: expected a number for token {}, found {}",
                      i, logits[i]));
    }
    any = any || logits[i] > -INFINITY;
  }
  if (any) return {};
  return invalid_input(
      "the model gave no finite scores: expected at least one above -infinity, found none");
}

Result<int32_t> largest_logit(std::span<const float> logits) {
  constexpr size_t kBlock = 1024;
  int32_t least = kLast, most = kFirst;
  size_t block = 0;  // that holds the first of the largest
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, logits.size());
    int32_t low = kLast, high = kFirst;
    for (size_t i = begin; i < end; ++i) {
      const int32_t each = ordered(logits[i]);
      low = each < low ? each : low;
      high = each > high ? each : high;
    }
    least = std::min(least, low);
    if (high > most) {
      most = high;
      block = begin;
    }
  }
  if (least < kFirst || most == kFirst || most >= kLast) {
    TESSERA_RETURN_IF_ERROR(check_logits(logits));
  }
  const auto first = std::find_if(logits.begin() + static_cast<std::ptrdiff_t>(block), logits.end(),
                                  [&](float x) { return ordered(x) == most; });
  return static_cast<int32_t>(first - logits.begin());
}

double log_sum_exp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

void penalise(std::span<const float> scores, std::span<const int32_t> seen, float penalty,
              std::span<float> target) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (int32_t id : seen) {
    const float score = scores[static_cast<size_t>(id)];
    if (score == -INFINITY) continue;
    // From the score itself, so that a second occurrence changes nothing.
    target[static_cast<size_t>(id)] =
        std::clamp(score > 0 ? score / penalty : score * penalty, -kLargest, kLargest);
  }
}

Sampler::Sampler(const Sampling& sampling) : sampling_(sampling), generator_(sampling.seed) {}

Result<int32_t> Sampler::next(std::span<const float> logits, std::span<const int32_t> seen) {
  TESSERA_ASSIGN_OR_RETURN(int32_t largest, largest_logit(logits));
  if (sampling_.repetition_penalty != 1) {
    penalised_.assign(logits.begin(), logits.end());
    penalise(logits, seen, sampling_.repetition_penalty, penalised_);
    logits = penalised_;
    TESSERA_ASSIGN_OR_RETURN(largest, largest_logit(logits));
  }
  if (sampling_.temperature == 0) return largest;
  filter_top_k(logits);
  const double total = weigh(logits, logits[static_cast<size_t>(largest)]);
  const double uniform = static_cast<double>(generator_() >> 11) * 0x1.0p-53;
  double left = uniform * total;
  for (size_t i = 0; i < weights_.size(); ++i) {
    left -= weights_[i];
    if (left < 0) return candidates_[i];
  }
  return candidates_[weights_.size() - 1];
}

// Leaves the top_k most probable tokens in candidates_.
void Sampler::filter_top_k(std::span<const float> logits) {
  candidates_.resize(logits.size());
  std::iota(candidates_.begin(), candidates_.end(), 0);
  if (sampling_.top_k == 0 || static_cast<size_t>(sampling_.top_k) >= candidates_.size()) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + sampling_.top_k, candidates_.end(),
                   Before{logits});
  candidates_.resize(static_cast<size_t>(sampling_.top_k));
}

// Puts at least twice as many candidates in order of probability as the first `ordered`, which are:
// a few hold most of the probability, and ordering a whole vocabulary takes longer than a small
// model's step. Gives how many they are now.
size_t Sampler::order_more(std::span<const float> logits, size_t ordered) {
  constexpr size_t kFirstOrdered = 64;
  const size_t wanted = std::min(candidates_.size(), std::max(kFirstOrdered, 2 * ordered));
  const auto begin = candidates_.begin() + static_cast<std::ptrdiff_t>(ordered);
  const auto end = candidates_.begin() + static_cast<std::ptrdiff_t>(wanted);
  std::nth_element(begin, end, candidates_.end(), Before{logits});
  std::sort(begin, end, Before{logits});
  return wanted;
}

// Fills weights_ with the probabilities of the first candidates relative to the largest, the fewest
// that reach top_p and of those the ones from min_p on; gives their sum.
double Sampler::weigh(std::span<const float> logits, float largest) {
  const auto weight = [&](int32_t id) {
    const double distance = static_cast<double>(logits[static_cast<size_t>(id)]) - largest;
    return std::exp(distance / sampling_.temperature);
  };
  const bool needs_order = sampling_.top_p < 1 || sampling_.min_p > 0;
  double wanted = INFINITY;
  if (sampling_.top_p < 1) {
    double total = 0;
    for (const int32_t id : candidates_) total += weight(id);
    wanted = sampling_.top_p * total;
  }
  weights_.clear();
  double kept = 0;
  size_t ordered = 0;
  for (size_t i = 0; i < candidates_.size() && kept < wanted; ++i) {
    if (needs_order && i == ordered) ordered = order_more(logits, ordered);
    const double one = weight(candidates_[i]);
    if (one < sampling_.min_p) break;
    weights_.push_back(one);
    kept += one;
  }
  return kept;
}

}  // namespace tessera
