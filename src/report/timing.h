#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "report/recipe.h"
#include "tessera/model.h"

namespace tessera {

// One variant's part of one round.
struct TimedTurn {
  std::vector<double> milliseconds;  // of each pass or step, in their order
  double others = 0;                 // the share of the CPUs that other processes took
  bool is_disturbed = false;         // too much of it, in every try
};

// One variant's part of a workload.
struct TimedVariant {
  int64_t tokens = 0;  // of a pass or step
  double flops = 0;    // of a pass or step, as executed
  double dense_flops = 0;
  std::vector<TimedTurn> turns;  // one a round
};

// Gives the model of a variant; may load it, or give the one that it keeps.
using ModelOf = std::function<Result<std::shared_ptr<Model>>(size_t variant)>;
// With turns done and their number; false stops with kCancelled.
using TurnProgress = std::function<bool(int64_t done, int64_t total)>;

// Times a workload on every variant: in each round every variant has a turn, every second round
// backwards, so that what changes on the machine meanwhile meets all of them. A turn that others
// disturb is repeated, a few times at most. The models must be able to run the workload.
Result<std::vector<TimedVariant>> time_variants(const RecipeWorkload& workload,
                                                const RecipeTiming& timing, size_t variants,
                                                const ModelOf& model_of,
                                                const TurnProgress& on_progress);

// The numbers of a table. Times are medians over the rounds of a round's median, 10th and 90th
// percentile; ratio is the median over the rounds of the time over the base's in the same round.
struct TimingNumbers {
  double median_ms = 0, p10_ms = 0, p90_ms = 0;
  double tokens_per_second = 0;
  double ratio = 1, ratio_low = 1, ratio_high = 1;  // low, high: of the rounds
  double others = 0;                                // the most of a round
  bool is_disturbed = false;                        // in any round
  int64_t samples = 0;
};
TimingNumbers numbers_of(const TimedVariant& variant, const TimedVariant& base);

// Interpolated between the neighbours; values are not empty and need not be sorted.
double quantile_of(std::vector<double> values, double at);

std::string timing_to_json(const std::vector<TimedVariant>& variants);
// kInvalidInput where it is not what timing_to_json gives of so many variants.
Result<std::vector<TimedVariant>> timing_from_json(const std::string& text,
                                                   const std::string& source, size_t variants);

}  // namespace tessera
