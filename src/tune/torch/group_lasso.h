#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>

#include "formats/tiles.h"
#include "tessera/tune.h"
#include "tune/torch/prune_targets.h"
#include "tune/torch/restriction.h"

namespace tessera::training {

// The divisors of reweighting are a norm and this, so that a unit which is 0 has a finite one.
inline constexpr double kReweightingEpsilon = 1e-3;

// lambda sum_ij beta_ij |W_ij| over the tiles of W [outputs, inputs], Frobenius norms (Yuan & Lin
// 2006), whose gradient it adds to that of W:
//   lambda beta_ij W_ij / |W_ij|, and 0 where W_ij is 0
// betas: [tiles] f64, or undefined: all 1. W is f32 or f64, as its gradient; sums are f64.
double add_group_lasso(const torch::Tensor& weight, TileShape tile, double lambda,
                       const torch::Tensor& betas, torch::Tensor& gradient);

// The penalty on all targets for the first `steps` steps; of kReweighted with
// beta_ij = 1 / (|W_ij| + epsilon) (Candes et al. 2008) of the weights before the first step and
// behind each milestone.
std::unique_ptr<Restriction> make_group_lasso(const PruneTraining& options, int64_t steps,
                                              PruneTargets targets);

}  // namespace tessera::training
