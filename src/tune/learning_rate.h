#pragma once

#include <cstdint>

#include "tessera/tune.h"

namespace tessera {

// The rate at its peak: what is asked for, or what is usual for the task. Distillation bears far
// more than labels do, whose few examples a model would learn by heart.
double peak_learning_rate(const TuneOptions& options);

// The rate of a step, counted from 0. With w = warmup * steps, rounded,
//   step < w   peak * (step + 1) / w
//   kLinear    peak * (steps - step) / (steps - w)
//   kCosine    peak * (1 + cos(pi * (step - w) / (steps - w))) / 2
//   kNone      peak
// so that no step has a rate of 0.
double learning_rate(const TuneOptions& options, int64_t step);

}  // namespace tessera
