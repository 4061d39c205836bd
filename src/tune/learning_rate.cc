#include "tune/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tessera {
namespace {

double usual_rate(TuneTask task) {
  switch (task) {
    case TuneTask::kDistil:
      return 1e-3;
    case TuneTask::kCausalLm:
    case TuneTask::kMaskedLm:
      return 1e-4;
    case TuneTask::kDataToText:
      return 5e-5;
    default:
      return 3e-5;
  }
}

}  // namespace

double peak_learning_rate(const TuneOptions& options) {
  constexpr double kOfUpdates = 5e-4;
  if (options.optimizer.learning_rate > 0) return options.optimizer.learning_rate;
  const double usual = usual_rate(options.task);
  return options.lora ? std::max(kOfUpdates, usual) : usual;
}

double learning_rate(const TuneOptions& options, int64_t step) {
  const double peak = peak_learning_rate(options);
  const int64_t steps = options.steps;
  const int64_t warm = std::llround(options.optimizer.warmup * static_cast<double>(steps));
  if (step < warm) return peak * (static_cast<double>(step + 1) / static_cast<double>(warm));
  const double done = static_cast<double>(step - warm) / static_cast<double>(steps - warm);
  switch (options.optimizer.decay) {
    case OptimizerOptions::Decay::kLinear:
      return peak * (1 - done);
    case OptimizerOptions::Decay::kCosine:
      return peak * (1 + std::cos(std::numbers::pi * done)) / 2;
    case OptimizerOptions::Decay::kNone:
      break;
  }
  return peak;
}

}  // namespace tessera
