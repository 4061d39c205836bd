#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "tessera/tune.h"
#include "tune/torch/parameters.h"

// Low-rank updates (Hu et al. 2021, "LoRA: Low-rank adaptation of large language models").
namespace tessera::training {

// What of TuneOptions::train is trained with updates where the options name nothing: all matrices
// of layers, and the head of a task whose labels are its own, as PEFT does.
std::vector<std::string> usual_updates(TuneTask task);

// Gives every matrix of a layer that is trained an update, which is trained in its place. A is
// uniform in +-1 / sqrt(inputs), as PEFT has it, by the seed, and B is 0, so that the model
// computes what it did. kInvalidInput where there is none, or where the rank is larger than a
// matrix; kUnsupported where an update would be merged into integers.
Status add_updates(const LoraOptions& options, uint64_t seed, TrainedModel& model);

// y = x W^T + b, with the weight's update where it has one:
//   y = x W^T + b + scale drop(x) A^T B^T
// of a matrix without a mask, in two small products, so that there is no gradient of W's size; of
// one with a mask M by the values W + scale M o (B A) that are merged in the end, whose products
// are those of kept tiles. x: [rows, inputs]; bias: null for none. dropout: of what the update
// reads.
torch::Tensor updated_linear(const torch::Tensor& x, const Parameter& weight, const Parameter* bias,
                             double dropout);

// W + scale M o (B A), or W where it has no update.
torch::Tensor updated_values(const Parameter& weight);

}  // namespace tessera::training
