#include "pruning/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

constexpr double kLeastOfALayer = 0.05;

bool all_kept(const std::vector<Keep>& keeps) {
  return std::all_of(keeps.begin(), keeps.end(), [](const Keep& each) { return each.keeps_all(); });
}

// What is wanted of a base, whatever there is.
int32_t count_of(const Keep& keep, int32_t base) {
  // A share like 0.29 of 100 is not a whole number in binary.
  constexpr double kSlack = 1e-9;
  if (keep.count > 0) return keep.count;
  return static_cast<int32_t>(std::floor(keep.share * base + kSlack));
}

int32_t base_of(const PruningSchedule& schedule, const ScheduledModel& model, int32_t tokens,
                int32_t prompt) {
  if (schedule.base == CountBase::kPositions) return model.positions;
  return schedule.base == CountBase::kPrompt && prompt > 0 ? prompt : tokens;
}

// A count for each layer, none above the one before.
std::vector<int32_t> falling_counts(const std::vector<Keep>& keeps, int32_t layers, int32_t all,
                                    int32_t base, int32_t least) {
  if (keeps.empty()) return std::vector<int32_t>(static_cast<size_t>(layers), all);
  std::vector<int32_t> kept;
  for (const Keep& keep : keeps) {
    const int32_t before = kept.empty() ? all : kept.back();
    kept.push_back(std::min(before, std::max(count_of(keep, base), least)));
  }
  return kept;
}

}  // namespace

bool PruningSchedule::keeps_all() const {
  return keeps_all_tokens() && keeps_all_heads() && keeps_all_values() && planes.empty();
}
bool PruningSchedule::keeps_all_tokens() const { return all_kept(tokens); }
bool PruningSchedule::keeps_all_heads() const { return all_kept(heads); }
bool PruningSchedule::keeps_all_values() const { return value_threshold == 0 && all_kept(values); }

Result<std::vector<Keep>> average_keep(double average, int32_t layers, double whole_layers) {
  const double whole = std::round(whole_layers * layers);
  const double others = layers - whole;
  const double mean = (average * layers - whole) / others;
  if (mean < kLeastOfALayer) {
    return invalid_input(fmt::format(
        "expected an average share of at least {:.2f} for {} layers, found {}",
        std::ceil(100 * (whole + kLeastOfALayer * others) / layers) / 100, layers, average));
  }
  const double swing = std::min({0.35, 1 - mean, mean - kLeastOfALayer});
  std::vector<Keep> keeps(static_cast<size_t>(whole));
  for (int32_t i = 0; i < static_cast<int32_t>(others); ++i) {
    const double place = others > 1 ? 1 - 2 * i / (others - 1) : 0;
    keeps.push_back({.share = std::min(mean + place * swing, 1.0)});
  }
  return keeps;
}

std::vector<int32_t> tokens_kept(const PruningSchedule& schedule, const ScheduledModel& model,
                                 int32_t tokens, int32_t protected_tokens, int32_t prompt) {
  return falling_counts(schedule.tokens, model.layers, tokens,
                        base_of(schedule, model, tokens, prompt),
                        std::max(schedule.minimum, protected_tokens));
}

std::vector<int32_t> heads_kept(const PruningSchedule& schedule, const ScheduledModel& model) {
  return falling_counts(schedule.heads, model.layers, model.query_heads, model.query_heads, 1);
}

int32_t values_kept(const PruningSchedule& schedule, const ScheduledModel& model, int32_t layer,
                    int32_t tokens, int32_t prompt) {
  const auto place = static_cast<size_t>(layer);
  int32_t keys = base_of(schedule, model, tokens, prompt);
  if (!schedule.tokens.empty()) keys = count_of(schedule.tokens[place], keys);
  if (schedule.values.empty()) return std::max(keys, 1);
  return std::max(count_of(schedule.values[place], keys), 1);
}

}  // namespace tessera
