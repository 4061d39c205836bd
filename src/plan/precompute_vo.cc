#include "plan/precompute_vo.h"

#include <fmt/format.h>

namespace tessera {
namespace {

struct Costs {
  double two_steps = 0;
  double precomputed = 0;
};

Costs costs_of(const VoProblem& p) {
  const auto heads = static_cast<double>(p.query_heads), n = static_cast<double>(p.tokens);
  const auto features = static_cast<double>(p.features);
  return {.two_steps = p.two_step_flops + 2 * n * heads * static_cast<double>(p.value_size),
          .precomputed = 2 * heads * features * (static_cast<double>(p.hidden_size) + n)};
}

std::string comparison(const VoProblem& p, const Costs& costs) {
  return fmt::format(
      "{} of {} output features kept: {:.2f} times the work of two steps at {} tokens", p.features,
      p.hidden_size, costs.precomputed / costs.two_steps, p.tokens);
}

bool rounds(Precision precision) {
  return precision != Precision::kF32 && precision != Precision::kStored;
}

}  // namespace

VoChoice choose_vo(VoMethod wanted, const VoProblem& p) {
  const Costs costs = costs_of(p);
  const std::string work = comparison(p, costs);
  if (wanted == VoMethod::kTwoStep) return {VoMethod::kTwoStep, "asked for; " + work};
  if (wanted == VoMethod::kPrecomputed) {
    const std::string rounding =
        rounds(p.weights) ? fmt::format("; products are rounded to {}", name(p.weights)) : "";
    return {VoMethod::kPrecomputed, "asked for; " + work + rounding};
  }
  if (costs.precomputed >= costs.two_steps) return {VoMethod::kTwoStep, work};
  if (rounds(p.weights)) {
    return {VoMethod::kTwoStep,
            fmt::format("{}, but {} would round the products", work, name(p.weights))};
  }
  const int64_t cached = int64_t{p.query_heads} * p.features;
  const int64_t cached_now = p.kv_heads * p.value_size;
  if (p.mask == Mask::kCausal && cached > cached_now) {
    return {VoMethod::kTwoStep, fmt::format("{}, but {} cached values a token instead of {}", work,
                                            cached, cached_now)};
  }
  return {VoMethod::kPrecomputed, work};
}

}  // namespace tessera
