#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "tune/batch.h"
#include "tune/torch/parameters.h"

namespace tessera::training {

// Rows of a tensor as torch counts them.
torch::Tensor indices(const std::vector<int64_t>& rows);

struct ForwardOptions {
  double dropout = 0;  // of embeddings and of what blocks add
};

// What the layers give, a row a token.
struct States {
  // [rows, hidden]: the output of the embeddings, then of each layer; in decoders the last one is
  // before the final norm.
  std::vector<torch::Tensor> hidden;
  torch::Tensor last;  // behind the final norm, where there is one
  // What each layer's attention reads, [rows, heads * head_size].
  std::vector<torch::Tensor> queries, keys;
};

// The model's computation, from the same record as the engine's: equal to it within rounding.
States forward(const TrainedModel& model, const Batch& batch, const ForwardOptions& options = {});

// The scaled scores of a sequence in a layer, before the softmax: [query_heads, rows, rows], -inf
// where the mask hides a key.
torch::Tensor attention_scores(const Architecture& architecture, int32_t layer, const Batch& batch,
                               int64_t sequence, const States& states);

// The head's outputs for some rows of `last`, [rows, outputs]: logits of tokens or labels.
torch::Tensor head(const TrainedModel& model, const torch::Tensor& rows);
// The row of each sequence that the head reads where it reads one, [sequences].
std::vector<int64_t> head_rows(const TrainedModel& model, const Batch& batch);

}  // namespace tessera::training
