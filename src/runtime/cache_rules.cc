#include "runtime/cache_rules.h"

#include <fmt/format.h>

namespace tessera {
namespace {

ValueRule value_rule(const PruningSchedule& schedule, size_t layer) {
  if (schedule.value_threshold > 0) {
    return {.kind = ValueRule::Kind::kAbove,
            .threshold = static_cast<float>(schedule.value_threshold)};
  }
  if (schedule.values.empty() || schedule.values[layer].keeps_all()) return {};
  const Keep& keep = schedule.values[layer];
  return {.kind = ValueRule::Kind::kLargest, .share = keep.share, .count = keep.count};
}

Refetch refetch(const KeyPlanes& planes) {
  constexpr double kAlways = 2;
  if (planes.empty()) return {.below = kAlways};
  return planes.refetch_scale == RefetchScale::kLength
             ? Refetch{.below_times_keys = planes.refetch_below}
             : Refetch{.below = planes.refetch_below};
}

}  // namespace

Status plan_cache(const PruningSchedule& schedule, const LoadOptions& options, Plan& plan) {
  if (schedule.planes.empty()) return {};
  if (options.cache && *options.cache != CacheType::kInt8) {
    return invalid_input(
        fmt::format("expected a cache of int8, or no type of it, as the pruning schedule has bits "
                    "for keys and values, found {}",
                    name(*options.cache)));
  }
  plan.cache = DType::kI8;
  return {};
}

std::vector<ReadRules> read_rules(const PruningSchedule& schedule, size_t layers) {
  std::vector<ReadRules> rules;
  for (size_t layer = 0; layer < layers; ++layer)
    rules.push_back({value_rule(schedule, layer), refetch(schedule.planes)});
  return rules;
}

void set_cache_rules(const PruningSchedule& schedule, Weights& weights) {
  const KeyPlanes& planes = schedule.planes;
  const std::vector<ReadRules> rules = read_rules(schedule, weights.layers.size());
  for (size_t layer = 0; layer < weights.layers.size(); ++layer) {
    AttentionShape& shape = weights.layers[layer].attention;
    shape.values = rules[layer].values;
    shape.refetch = rules[layer].refetch;
    if (!planes.empty())
      shape.pages.bits = {planes.upper_bits, planes.lower_bits, planes.value_bits};
  }
}

}  // namespace tessera
