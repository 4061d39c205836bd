#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/status.h"
#include "compress/directory.h"
#include "model/architecture.h"
#include "pruning/cascade.h"
#include "pruning/heads.h"
#include "pruning/schedule.h"
#include "tune/batch.h"

namespace tessera::training {

// The schedule of cascade pruning that is saved with an encoder, by which it is then trained. None:
// there is none, or the model is a decoder, whose tokens leave while it generates.
Result<std::optional<PruningSchedule>> read_saved_schedule(const OpenCheckpoint& source,
                                                           const Architecture& architecture);

// The tokens and heads of a batch's sequences on their way through the layers, as the engine lets
// them leave (pruning/cascade.h, pruning/heads.h). What chooses has no gradients.
class BatchCascade {
 public:
  // kept: rows of the batch that never leave. Schedule and architecture must live as long.
  BatchCascade(const PruningSchedule& schedule, const Architecture& architecture,
               const Batch& batch, std::span<const int64_t> kept);

  // To be called in front of each layer in turn. The places, among the rows alive so far, of those
  // that stay; empty: all do.
  std::vector<int64_t> choose(int32_t layer);
  // The rows of the batch that are alive, and where each sequence begins among them.
  const std::vector<int64_t>& rows() const { return rows_; }
  const std::vector<int32_t>& offsets() const { return offsets_; }
  // What a layer's attention gives, [rows alive, heads * head_size], without what dead heads give.
  torch::Tensor without_dead_heads(int32_t layer, const torch::Tensor& context) const;
  // Once a layer has attended: what its attention read, [rows alive, heads * head_size], and gave,
  // without what dead heads give.
  void add(int32_t layer, const torch::Tensor& queries, const torch::Tensor& keys,
           const torch::Tensor& context);

 private:
  void add_masses(int32_t layer, size_t sequence, const torch::Tensor& queries,
                  const torch::Tensor& keys);

  const PruningSchedule& schedule_;
  const Architecture& architecture_;
  std::vector<int32_t> first_rows_;  // of the batch's sequences
  std::vector<TokenCascade> tokens_;
  std::vector<HeadCascade> heads_;
  std::vector<uint8_t> live_;  // [sequences, heads]
  std::vector<int64_t> rows_;
  std::vector<int32_t> offsets_;
  CascadeScratch scratch_;
};

}  // namespace tessera::training
