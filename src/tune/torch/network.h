#pragma once

#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

#include "pruning/schedule.h"
#include "tune/batch.h"
#include "tune/torch/parameters.h"

namespace tessera::training {

// Rows of a tensor as torch counts them.
torch::Tensor indices(const std::vector<int64_t>& rows);

// Whether a layer's inner states stand in memory until the backward pass has read them, or are
// computed again for it.
enum class InnerStates { kKept, kRecomputed };

struct ForwardOptions {
  double dropout = 0;         // of embeddings and of what blocks add
  double update_dropout = 0;  // of what low-rank updates read
  // By which tokens and heads of an encoder leave; null: all stay.
  const PruningSchedule* schedule = nullptr;
  std::span<const int64_t> kept = {};  // rows that never leave
  // kRecomputed not with a schedule; model and batch must then live until the backward pass is
  // over. Losses and gradients are the same, bit for bit.
  InnerStates inner = InnerStates::kKept;
  // Whether States has what attention reads.
  enum class Attention { kKept, kDropped } attention = Attention::kKept;
};

// What the layers give, a row a token.
struct States {
  // [rows, hidden]: the output of the embeddings, then of each layer; in decoders the last one is
  // before the final norm. Of the rows that the layer had.
  std::vector<torch::Tensor> hidden;
  // The rows that each of them has; undefined: all.
  std::vector<torch::Tensor> rows;
  // Behind the final norm, where there is one; rows that left have the state that they left with.
  torch::Tensor last;
  // What embeddings are pooled from, and where each sequence begins in it.
  torch::Tensor pooled;
  std::vector<int32_t> pooled_offsets;
  // What each layer's attention reads, [rows that it had, heads * head_size]; empty where that is
  // not asked for.
  std::vector<torch::Tensor> queries, keys;
};

// The model's computation, from the same record as the engine's: equal to it within rounding. Of
// tokens or heads that a schedule chooses among, others may stay where two are equal within that.
States forward(const TrainedModel& model, const Batch& batch, const ForwardOptions& options = {});

// Q K^T scale of so many rows from `first` on, of what a layer's attention reads: [query_heads,
// rows, rows].
torch::Tensor scaled_scores(const LayerRecord& layer, const torch::Tensor& queries,
                            const torch::Tensor& keys, int64_t first, int64_t rows);
// The scaled scores of a sequence in a layer, before the softmax: [query_heads, rows, rows], -inf
// where the mask hides a key.
torch::Tensor attention_scores(const Architecture& architecture, int32_t layer, const Batch& batch,
                               int64_t sequence, const States& states);

// The head's outputs for some rows of `last`, [rows, outputs]: logits of tokens or labels.
torch::Tensor head(const TrainedModel& model, const torch::Tensor& rows);
// The row of each sequence that the head reads where it reads one, [sequences].
std::vector<int64_t> head_rows(const TrainedModel& model, const Batch& batch);

}  // namespace tessera::training
