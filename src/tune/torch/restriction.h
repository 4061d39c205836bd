#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/status.h"
#include "tune/torch/parameters.h"

namespace tessera::training {

// What restricts or regularises a training beside its loss. A step is: the loss's gradients, then
// add_gradients, the optimizer, then after_step. Steps are numbered from 0.
class Restriction {
 public:
  virtual ~Restriction() = default;
  // Before the first step, and, behind restore, before a training that was taken up goes on.
  virtual Status begin(TrainedModel&) { return {}; }
  // Adds a penalty's gradients to those of the trained parameters and gives the penalty.
  virtual double add_gradients(TrainedModel&, int64_t /*step*/) { return 0; }
  // Projects the parameters onto what is allowed, or prunes some of them, after step `step`.
  virtual Status after_step(TrainedModel&, int64_t /*step*/) { return {}; }
  // What it remembers from step to step, by name: kept in checkpoints.
  virtual std::map<std::string, torch::Tensor> state() const { return {}; }
  virtual Status restore(const std::map<std::string, torch::Tensor>&) { return {}; }
};

}  // namespace tessera::training
