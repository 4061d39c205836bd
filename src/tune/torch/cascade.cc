#include "tune/torch/cascade.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "runtime/model_state.h"
#include "tokenizer/tokenizer.h"
#include "tune/torch/network.h"

namespace tessera::training {

using torch::Tensor;

Result<std::optional<PruningSchedule>> read_saved_schedule(const OpenCheckpoint& source,
                                                           const Architecture& architecture) {
  std::optional<PruningSchedule> none;
  if (architecture.is_decoder()) return none;
  const Checkpoint& checkpoint = source.checkpoint;
  TESSERA_ASSIGN_OR_RETURN(const Config section, checkpoint.config().child("tessera"));
  if (!section.has("pruning")) return none;
  TESSERA_ASSIGN_OR_RETURN(const Config saved, section.child("pruning"));
  ScheduledModel fits = scheduled_model(architecture);
  const auto tokenizer = Tokenizer::open(checkpoint.directory());
  if (tokenizer.ok()) fits.named_ids = named_ids(**tokenizer);
  TESSERA_ASSIGN_OR_RETURN(const PruningSchedule schedule,
                           parse_schedule(saved.dump(), fits, saved.source()));
  return std::optional(schedule);
}

BatchCascade::BatchCascade(const PruningSchedule& schedule, const Architecture& architecture,
                           const Batch& batch, std::span<const int64_t> kept)
    : schedule_(schedule), architecture_(architecture), first_rows_(batch.offsets) {
  const auto sequences = static_cast<size_t>(batch.sequences());
  const ScheduledModel model = scheduled_model(architecture);
  if (!schedule.keeps_all_tokens())
    tokens_.assign(sequences, TokenCascade(schedule, model, CascadeKind::kText));
  if (!schedule.keeps_all_heads())
    heads_.assign(sequences, HeadCascade(schedule, model, Prefill::kPrune));
  live_.assign(sequences * static_cast<size_t>(architecture.layer(0).query_heads), 1);
  int32_t longest = 0;
  for (size_t s = 0; s < sequences; ++s) {
    const int32_t first = batch.offsets[s], rows = batch.offsets[s + 1] - first;
    longest = std::max(longest, rows);
    std::vector<int32_t> positions;
    for (const int64_t row : kept) {
      if (row >= first && row < first + rows)
        positions.push_back(static_cast<int32_t>(row) - first);
    }
    const std::span<const int32_t> ids(batch.ids.data() + first, static_cast<size_t>(rows));
    if (!tokens_.empty()) tokens_[s].begin(0, ids, positions);
    if (!heads_.empty()) heads_[s].begin(0, rows);
  }
  scratch_.fit(longest);
  offsets_ = batch.offsets;
  for (int64_t row = 0; row < batch.tokens(); ++row) rows_.push_back(row);
}

std::vector<int64_t> BatchCascade::choose(int32_t layer) {
  const size_t sequences = first_rows_.size() - 1;
  const size_t heads = live_.size() / std::max<size_t>(sequences, 1);
  for (size_t s = 0; s < heads_.size(); ++s)
    heads_[s].choose(layer, {live_.data() + s * heads, heads});
  std::vector<int64_t> places, rows;
  std::vector<int32_t> offsets = {0};
  for (size_t s = 0; s < tokens_.size(); ++s) {
    for (const int32_t place : tokens_[s].choose(layer, scratch_))
      places.push_back(offsets_[s] + place);
    for (const int32_t position : tokens_[s].alive()) rows.push_back(first_rows_[s] + position);
    offsets.push_back(static_cast<int32_t>(rows.size()));
  }
  if (tokens_.empty() || rows.size() == rows_.size()) return {};
  rows_ = std::move(rows);
  offsets_ = std::move(offsets);
  return places;
}

Tensor BatchCascade::without_dead_heads(int32_t layer, const Tensor& context) const {
  if (heads_.empty()) return context;
  const LayerRecord& record = architecture_.layer(layer);
  Tensor live = at::empty({context.size(0), record.query_heads, 1});
  float* target = live.data_ptr<float>();
  const auto heads = static_cast<size_t>(record.query_heads);
  for (size_t s = 0; s + 1 < offsets_.size(); ++s) {
    for (int32_t row = offsets_[s]; row < offsets_[s + 1]; ++row)
      target = std::copy_n(live_.begin() + static_cast<int64_t>(s * heads), heads, target);
  }
  const Tensor split = context.view({context.size(0), record.query_heads, record.head_size});
  return (split * live).view_as(context);
}

void BatchCascade::add(int32_t layer, const Tensor& queries, const Tensor& keys,
                       const Tensor& context) {
  const at::NoGradGuard no_gradients;
  const LayerRecord& record = architecture_.layer(layer);
  for (size_t s = 0; s < tokens_.size(); ++s) {
    if (layer < tokens_[s].scored_layers()) add_masses(layer, s, queries, keys);
  }
  if (heads_.empty()) return;
  const Tensor split = context.view({context.size(0), record.query_heads, record.head_size});
  const Tensor magnitudes = at::sum(at::abs(split), {2}).contiguous();
  for (size_t s = 0; s < heads_.size(); ++s) {
    if (!heads_[s].observes(layer)) continue;
    const float* first = magnitudes.data_ptr<float>() + int64_t{offsets_[s]} * record.query_heads;
    heads_[s].add(first, offsets_[s + 1] - offsets_[s]);
  }
}

// P = softmax(Q K^T scale), summed over the queries: [heads, keys].
void BatchCascade::add_masses(int32_t layer, size_t s, const Tensor& queries, const Tensor& keys) {
  const LayerRecord& record = architecture_.layer(layer);
  const int64_t first = offsets_[s], rows = offsets_[s + 1] - first;
  const Tensor scores = scaled_scores(record, queries, keys, first, rows);
  Tensor mass = at::sum(at::softmax(scores, 2), {1});
  const auto heads = static_cast<size_t>(record.query_heads);
  for (size_t head = 0; head < heads; ++head) {
    if (live_[s * heads + head] == 0) mass[static_cast<int64_t>(head)].zero_();
  }
  mass = mass.contiguous();
  const std::span<const int32_t> alive = tokens_[s].alive();
  tokens_[s].add({.mass = mass.data_ptr<float>(),
                  .heads = record.query_heads,
                  .keys = alive,
                  .queries = alive,
                  .reach = {}},
                 scratch_);
}

}  // namespace tessera::training
