#pragma once

#include <torch/types.h>

#include <cstdint>
#include <span>

#include "model/architecture.h"
#include "tune/torch/parameters.h"

// Operations with backward passes of our own. All are deterministic for a number of threads.
namespace tessera::training {

// y = x W^T + b, of which a pruned W multiplies its kept tiles only, forwards and backwards:
//   dx = dy W,  dW = dy^T x on the kept tiles and 0 elsewhere,  db = sum of dy's rows
// x: [rows, inputs]; y: [rows, outputs]. bias: null for none. Of integers W and x are rounded, as
// tune/torch/rounded.h says.
torch::Tensor linear(const torch::Tensor& x, const Parameter& weight, const Parameter* bias);

// The same with values that were computed from the weight, of its shape and 0 where its mask
// prunes, and x as it is; what they are computed from is given the gradient.
torch::Tensor linear(const torch::Tensor& x, const Parameter& weight, const torch::Tensor& values,
                     const Parameter* bias);

// Attention within each sequence, rows offsets[s] to offsets[s + 1], as the flash form has it
// (Dao et al. 2022): only outputs and log-sum-exps are kept for the backward pass.
//   P = exp(Q K^T scale - LSE),  O = P V
//   D = rowsum(dO o O),  dV = P^T dO,  dS = P o (dO V^T - D),  dQ = dS K scale,  dK = dS^T Q scale
// query: [rows, query_heads * head_size], key and value: [rows, kv_heads * head_size]; query head h
// reads KV head h / (query_heads / kv_heads). Result: as query. The offsets are copied.
struct AttentionForm {
  std::span<const int32_t> offsets;
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_size = 0;
  float scale = 0;
  Mask mask = Mask::kNone;
  int32_t window = 0;  // of a causal mask: a query sees so many keys, itself the last; 0: all
};
torch::Tensor attention(const torch::Tensor& query, const torch::Tensor& key,
                        const torch::Tensor& value, const AttentionForm& form);

}  // namespace tessera::training
