#include "runtime/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "kernels/attention_softmax/attention_softmax.h"

namespace tessera {
namespace {

// Integers in the order of the floats, so that a loop over them is vectorised: both zeros are one,
// and NaN stands before -infinity or behind +infinity, by its sign.
constexpr int32_t ordered(float x) {
  const auto bits = std::bit_cast<int32_t>(x + 0.0f);
  return bits ^ ((bits >> 31) & 0x7fffffff);
}
constexpr float float_of(int32_t order) {
  return std::bit_cast<float>(order ^ ((order >> 31) & 0x7fffffff));
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

constexpr size_t kBlock = 1024;

std::span<const float> block_at(std::span<const float> values, size_t begin, size_t size) {
  return values.subspan(begin, std::min(size, values.size() - begin));
}

// In 16 partial sums, so that the loop is vectorised.
double sum_of(std::span<const float> values) {
  constexpr size_t kLanes = 16;
  double lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += double{values[i + lane]};
  for (; i < values.size(); ++i) lanes[0] += double{values[i]};
  return std::accumulate(std::begin(lanes), std::end(lanes), 0.0);
}

// The sum of the sums of blocks, by which draw() walks.
double total_of(std::span<const float> values) {
  double total = 0;
  for (size_t begin = 0; begin < values.size(); begin += kBlock)
    total += sum_of(block_at(values, begin, kBlock));
  return total;
}

// 2^x of numbers that are at most 0, in place, where there is memory for whole blocks of 64.
void powers_of_two(float* x, size_t count) {
  const int32_t begin = 0, end = static_cast<int32_t>(count);
  float maximum = 0, sum = 0, rescale = 1;
  attention_softmax::kernels.run({.scores = x,
                                  .begin = &begin,
                                  .end = &end,
                                  .keys = end,
                                  .maximum = &maximum,
                                  .sum = &sum,
                                  .rescale = &rescale},
                                 {0, 1});
}

int32_t largest_of(std::span<const float> logits) {
  int32_t most = kFirst;
  for (const float logit : logits) {
    const int32_t each = ordered(logit);
    most = each > most ? each : most;
  }
  return most;
}

}  // namespace

Status check_sampling(const Sampling& sampling) {
  if (!(sampling.temperature >= 0 && std::isfinite(sampling.temperature))) {
    return invalid_input(
        fmt::format("temperature: expected a number >= 0, found {}", sampling.temperature));
  }
  if (sampling.top_k < 0) {
    return invalid_input(fmt::format("top_k: expected an integer >= 0, found {}", sampling.top_k));
  }
  if (!(sampling.top_p >= 0 && sampling.top_p <= 1)) {
    return invalid_input(
        fmt::format("top_p: expected a number in [0, 1], found {}", sampling.top_p));
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
  const float largest = float_of(largest_of(logits));
  alignas(64) float powers[kBlock];
  double sum = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const std::span<const float> block = block_at(logits, begin, kBlock);
    for (size_t i = 0; i < block.size(); ++i)
      powers[i] = (block[i] - largest) * attention_softmax::kLog2E;
    powers_of_two(powers, block.size());
    sum += sum_of({powers, block.size()});
  }
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

Sampler::Sampler(const Sampling& sampling, ActiveRules rules)
    : sampling_(sampling), rules_(std::move(rules)), generator_(sampling.seed) {}

Result<int32_t> Sampler::next(std::span<const float> logits, std::span<const int32_t> seen,
                              SamplerMemory* given) {
  SamplerMemory own;
  SamplerMemory& memory = given != nullptr ? *given : own;
  TESSERA_ASSIGN_OR_RETURN(int32_t largest, largest_logit(logits));
  if (sampling_.repetition_penalty != 1 || rules_.any()) {
    memory.penalised.assign(logits.begin(), logits.end());
    penalise(logits, seen, sampling_.repetition_penalty, memory.penalised);
    rules_.apply(seen, memory.penalised);
    logits = memory.penalised;
    TESSERA_ASSIGN_OR_RETURN(largest, largest_logit(logits));
  }
  if (sampling_.temperature == 0) return largest;
  filter_top_k(logits, memory);
  weigh(logits, logits[static_cast<size_t>(largest)], memory);
  if (sampling_.top_p < 1 || sampling_.min_p > 0) filter_by_weight(memory);
  return draw(memory);
}

// Leaves the top_k most probable tokens as candidates, in no order.
void Sampler::filter_top_k(std::span<const float> logits, SamplerMemory& memory) const {
  auto& candidates = memory.candidates;
  const auto wanted = static_cast<size_t>(sampling_.top_k);
  if (wanted == 0 || wanted >= logits.size()) {
    candidates.resize(logits.size());
    std::iota(candidates.begin(), candidates.end(), 0);
    return;
  }
  // The wanted-th largest of the largests of blocks is at most the wanted-th largest of all, and
  // near it where there are several times as many blocks.
  const size_t block = std::clamp<size_t>(logits.size() / (8 * wanted), 32, kBlock);
  std::vector<int32_t> largest;
  for (size_t begin = 0; begin < logits.size(); begin += block)
    largest.push_back(largest_of(block_at(logits, begin, block)));
  int32_t bound = kFirst;
  if (wanted <= largest.size()) {
    std::vector<int32_t> order = largest;
    const auto nth = order.begin() + sampling_.top_k - 1;
    std::nth_element(order.begin(), nth, order.end(), std::greater<>());
    bound = *nth;
  }
  candidates.clear();
  for (size_t begin = 0; begin < logits.size(); begin += block) {
    if (largest[begin / block] < bound) continue;
    for (size_t i = begin; i < std::min(begin + block, logits.size()); ++i)
      if (ordered(logits[i]) >= bound) candidates.push_back(static_cast<int32_t>(i));
  }
  std::nth_element(candidates.begin(), candidates.begin() + sampling_.top_k, candidates.end(),
                   Before{logits});
  candidates.resize(wanted);
}

// Fills in the candidates' probabilities relative to the largest logit's.
void Sampler::weigh(std::span<const float> logits, float largest, SamplerMemory& memory) const {
  auto& candidates = memory.candidates;
  auto& weights = memory.weights;
  weights.resize((candidates.size() + attention_softmax::kBlock - 1) / attention_softmax::kBlock *
                 attention_softmax::kBlock);
  for (size_t i = 0; i < candidates.size(); ++i) {
    const float distance = logits[static_cast<size_t>(candidates[i])] - largest;
    weights[i] = distance / sampling_.temperature * attention_softmax::kLog2E;
  }
  powers_of_two(weights.data(), candidates.size());
  weights.resize(candidates.size());
}

namespace {

// Cuts what is kept to the fewest, at least one, that weigh so much. A few hold most of the weight,
// and ordering a whole vocabulary takes longer than a small model's step: they are put in order as
// they are needed.
void keep_first(std::vector<SamplerMemory::Kept>& kept, double wanted) {
  constexpr size_t kFirstOrdered = 64;
  const auto before = [](const SamplerMemory::Kept& a, const SamplerMemory::Kept& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  };
  double weight = 0;
  size_t count = 0;
  for (size_t in_order = 0; count < kept.size() && (count == 0 || weight < wanted); ++count) {
    if (count == in_order) {
      const auto begin = kept.begin() + static_cast<std::ptrdiff_t>(in_order);
      in_order = std::min(kept.size(), std::max(kFirstOrdered, 2 * in_order));
      const auto end = kept.begin() + static_cast<std::ptrdiff_t>(in_order);
      std::nth_element(begin, end, kept.end(), before);
      std::sort(begin, end, before);
    }
    weight += kept[count].weight;
  }
  kept.resize(count);
}

}  // namespace

// Leaves the fewest candidates that reach top_p, and of those the ones from min_p on.
void Sampler::filter_by_weight(SamplerMemory& memory) const {
  auto& candidates = memory.candidates;
  auto& weights = memory.weights;
  const double total = total_of(weights);
  const double wanted = sampling_.top_p < 1 ? sampling_.top_p * total : INFINITY;
  // All that weigh less than this weigh less than 1 - top_p together; half of it, for the rounding
  // of sums.
  const double needless =
      0.5 * (1 - double{sampling_.top_p}) * total / static_cast<double>(weights.size());
  const auto least = std::max(static_cast<float>(needless), sampling_.min_p);
  memory.kept.clear();
  for (size_t i = 0; i < weights.size(); ++i)
    if (weights[i] >= least) memory.kept.push_back({candidates[i], weights[i]});
  if (sampling_.top_p < 1) keep_first(memory.kept, wanted);
  candidates.clear();
  weights.clear();
  for (const SamplerMemory::Kept& kept : memory.kept) {
    candidates.push_back(kept.id);
    weights.push_back(kept.weight);
  }
}

int32_t Sampler::draw(const SamplerMemory& memory) {
  auto& weights = memory.weights;
  double left = static_cast<double>(generator_() >> 11) * 0x1.0p-53 * total_of(weights);
  size_t chosen = 0;  // a block with weight
  for (size_t begin = 0; begin < weights.size(); begin += kBlock) {
    const double weight = sum_of(block_at(weights, begin, kBlock));
    if (weight == 0) continue;
    chosen = begin;
    if (left < weight) break;
    left -= weight;
  }
  size_t token = chosen;
  for (size_t i = chosen; i < std::min(chosen + kBlock, weights.size()); ++i) {
    if (weights[i] == 0) continue;
    token = i;  // the last with weight where rounding leaves something over
    left -= weights[i];
    if (left < 0) break;
  }
  return memory.candidates[token];
}

}  // namespace tessera
