#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <vector>

// What trades time for memory: parts of a pass whose inner states do not all stand in memory at
// once.
namespace tessera::training {

// f(x), of which only x is kept: the backward pass computes f again, with what it drew at random,
// and then its gradients (gradient checkpointing, Chen et al. 2016, arXiv 1604.06174). Results and
// gradients are those of f itself, bit for bit where x is read by nothing else of the graph.
// f depends on x, on weights and on what it draws alone, and what it refers to lives until the
// backward pass is over. weights: leaves, among them all that f reads and that gradients are wanted
// of.
using Computation = std::function<std::vector<torch::Tensor>(const torch::Tensor& x)>;
std::vector<torch::Tensor> recomputed(Computation f, const torch::Tensor& x,
                                      const std::vector<torch::Tensor>& weights);

// sum over i of f(x[i n .. i n + n], i n), a number, for n rows at a time: the gradients of each
// part are computed right behind its value, so that no other part's states are there meanwhile.
// Equal to the sum within rounding: a gradient is a sum of parts' sums. f as above, and it draws
// nothing at random.
using PartialLoss = std::function<torch::Tensor(const torch::Tensor& rows, int64_t first)>;
torch::Tensor loss_by_parts(const PartialLoss& f, const torch::Tensor& x, int64_t n,
                            const std::vector<torch::Tensor>& weights);

}  // namespace tessera::training
