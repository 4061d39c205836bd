#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "base/guarded.h"
#include "evaluate/metrics.h"

namespace tessera {
namespace {

constexpr int32_t kMostResamples = 1'000'000;

Status check_options(const BootstrapOptions& options) {
  if (options.resamples < 0 || options.resamples > kMostResamples) {
    return invalid_input(
        fmt::format("resamples: expected 0 to {}, found {}", kMostResamples, options.resamples));
  }
  if (options.confidence > 0 && options.confidence < 1) return {};
  return invalid_input(
      fmt::format("confidence: expected between 0 and 1, found {}", options.confidence));
}

// How often each example is drawn, n draws in all. The generator's values are the standard's, and
// the remainder favours no example by more than n / 2^64.
class Draws {
 public:
  Draws(size_t examples, uint64_t seed) : counts_(examples), generator_(seed) {}
  std::span<const int32_t> next() {
    std::fill(counts_.begin(), counts_.end(), 0);
    for (size_t i = 0; i < counts_.size(); ++i) ++counts_[generator_() % counts_.size()];
    return counts_;
  }

 private:
  std::vector<int32_t> counts_;
  std::mt19937_64 generator_;
};

struct Interval {
  double low = std::numeric_limits<double>::quiet_NaN();
  double high = std::numeric_limits<double>::quiet_NaN();
};

// Values at (n - 1) q of the sorted ones, linear in between, as numpy's percentile; of those that
// are finite, if most are.
Interval percentiles(std::vector<double> values, double confidence) {
  const size_t all = values.size();
  std::erase_if(values, [](double value) { return !std::isfinite(value); });
  if (values.empty() || values.size() * 2 <= all) return {};
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<size_t>(place);
    const size_t above = std::min(below + 1, values.size() - 1);
    return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
  };
  return {at((1 - confidence) / 2), at((1 + confidence) / 2)};
}

Status check_alike(const Evaluation& evaluation, const Evaluation& base) {
  const auto differ = [](const char* what, const std::string& one, const std::string& other) {
    return invalid_input(
        fmt::format("expected two evaluations of the same {}, found {} and {}", what, one, other));
  };
  if (evaluation.kind != base.kind || evaluation.task != base.task ||
      evaluation.split != base.split) {
    return differ("task", fmt::format("{} {}", evaluation.task, evaluation.split),
                  fmt::format("{} {}", base.task, base.split));
  }
  if (evaluation.settings != base.settings) {
    return differ("settings", evaluation.method, base.method);
  }
  const size_t most = std::max(evaluation.examples.size(), base.examples.size());
  for (size_t i = 0; i < most; ++i) {
    const auto name = [&](const Evaluation& each) {
      return i < each.examples.size() ? each.examples[i].id : std::string("none");
    };
    if (name(evaluation) != name(base)) return differ("examples", name(evaluation), name(base));
  }
  return {};
}

// Two-sided, of the differences of the resamples; nothing follows from none.
double p_value(std::span<const double> drawn, double difference) {
  if (drawn.empty() || !std::isfinite(difference)) return std::numeric_limits<double>::quiet_NaN();
  // A resample that gives the same number up to rounding is as far.
  const double far = std::abs(difference) * (1 - 1e-12);
  const auto as_far = std::count_if(drawn.begin(), drawn.end(), [&](double value) {
    return !(std::abs(value - difference) < far);
  });
  return static_cast<double>(as_far + 1) / static_cast<double>(drawn.size() + 1);
}

Result<std::vector<MetricDifference>> differences(const Evaluation& evaluation,
                                                  const Evaluation& base,
                                                  const BootstrapOptions& options) {
  TESSERA_RETURN_IF_ERROR(check_options(options));
  TESSERA_RETURN_IF_ERROR(check_alike(evaluation, base));
  TESSERA_ASSIGN_OR_RETURN(const MetricSet ours, MetricSet::of(evaluation));
  TESSERA_ASSIGN_OR_RETURN(const MetricSet theirs, MetricSet::of(base));
  const std::vector<Metric> metrics = ours.metrics(), base_metrics = theirs.metrics();
  std::vector<std::vector<double>> drawn(metrics.size());
  Draws draws(ours.examples(), options.seed);
  for (int32_t r = 0; r < options.resamples; ++r) {
    const std::span<const int32_t> counts = draws.next();
    const std::vector<double> a = ours.compute(counts), b = theirs.compute(counts);
    for (size_t m = 0; m < metrics.size(); ++m) drawn[m].push_back(a[m] - b[m]);
  }
  std::vector<MetricDifference> found;
  // In the order of the evaluation's.
  for (const Metric& wanted : evaluation.metrics) {
    for (size_t m = 0; m < metrics.size(); ++m) {
      if (metrics[m].name != wanted.name) continue;
      const double value = metrics[m].value, other = base_metrics[m].value;
      const Interval interval = percentiles(drawn[m], options.confidence);
      found.push_back({wanted.name, value, other, value - other, interval.low, interval.high,
                       p_value(drawn[m], value - other)});
    }
  }
  return found;
}

}  // namespace

Result<std::vector<Metric>> with_intervals(const MetricSet& set, const BootstrapOptions& options,
                                           const BootstrapProgress& on_progress) {
  TESSERA_RETURN_IF_ERROR(check_options(options));
  constexpr int32_t kLook = 50;
  std::vector<Metric> metrics = set.metrics();
  std::vector<std::vector<double>> drawn(metrics.size());
  Draws draws(set.examples(), options.seed);
  for (int32_t r = 0; r < options.resamples; ++r) {
    if (on_progress && r % kLook == 0) TESSERA_RETURN_IF_ERROR(on_progress(r, options.resamples));
    const std::vector<double> values = set.compute(draws.next());
    for (size_t m = 0; m < metrics.size(); ++m) drawn[m].push_back(values[m]);
  }
  for (size_t m = 0; m < metrics.size(); ++m) {
    const Interval interval = percentiles(std::move(drawn[m]), options.confidence);
    metrics[m].low = interval.low;
    metrics[m].high = interval.high;
  }
  return metrics;
}

Result<std::vector<MetricDifference>> compare(const Evaluation& evaluation, const Evaluation& base,
                                              const BootstrapOptions& options) {
  return guarded("compare", [&] { return differences(evaluation, base, options); });
}

}  // namespace tessera
