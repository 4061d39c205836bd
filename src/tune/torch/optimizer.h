#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "tessera/tune.h"
#include "tune/torch/parameters.h"

namespace tessera::training {

// AdamW (Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2), as
// torch.optim.AdamW has it. Step t = 1, 2, ... of a weight w with gradient g:
//   m = beta1 m + (1 - beta1) g
//   v = beta2 v + (1 - beta2) g^2
//   w = w (1 - rate decay) - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
// Only matrices and tables decay. Each parameter is passed over once, by all threads: memory is
// what takes the time. What a mask does not keep is neither read nor written. The result does not
// depend on the number of threads.
class AdamW {
 public:
  // A trained parameter, which must live as long, with its moments, f32 of its shape.
  struct Slot {
    Parameter* parameter = nullptr;
    torch::Tensor first, second;
  };

  AdamW(const OptimizerOptions& options, const std::vector<Parameter*>& trained);

  // The Euclidean length of all gradients together, summed in double.
  double gradient_norm() const;
  // Changes every parameter that has a gradient, which is multiplied by `scale` on the way, and
  // forgets all gradients.
  void step(double rate, double scale);

  const std::vector<Slot>& slots() const { return slots_; }
  int64_t steps() const { return steps_; }
  // For a training that is taken up: as many steps were done, and the moments are those of then.
  void take_up(int64_t steps) { steps_ = steps; }

 private:
  OptimizerOptions options_;
  std::vector<Slot> slots_;
  int64_t steps_ = 0;
};

}  // namespace tessera::training
