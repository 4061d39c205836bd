#include "runtime/pruned_pass.h"

#include <algorithm>
#include <utility>

#include "runtime/whole_sequences.h"

namespace tessera {
namespace {

bool reads(const PassReaders& readers, Pooling pooling) {
  return std::find(readers.poolings.begin(), readers.poolings.end(), pooling) !=
         readers.poolings.end();
}

// The tokens of a sequence and those of them that never leave.
CascadeSequence sequence_of(const ModelState& state, const SequenceBatch& batch, size_t s,
                            const PassReaders& readers) {
  const PruningSchedule& pruning = *state.pruning;
  const int32_t begin = batch.layout.offsets[s], end = batch.layout.offsets[s + 1];
  int32_t first = std::max(pruning.protect_first, readers.head == HeadRows::kFirstOfEach ? 1 : 0);
  if (reads(readers, Pooling::kFirstToken))
    first = std::max(first, static_cast<int32_t>(readers.skipped) + 1);
  const int32_t last = std::max(pruning.protect_last, reads(readers, Pooling::kLastToken) ? 1 : 0);
  const int32_t head_row = readers.head == HeadRows::kLastOfEach
                               ? last_head_row(batch.ids, batch.layout, static_cast<int64_t>(s),
                                               state.architecture.head_padding_id)
                               : -1;
  const std::vector<int32_t>& ids = pruning.protect_ids;
  const auto is_given = [&](int32_t row) {
    return std::find(readers.head_rows.begin(), readers.head_rows.end(), row) !=
           readers.head_rows.end();
  };
  CascadeSequence sequence{.first_row = begin, .tokens = end - begin};
  for (int32_t row = begin; row < end; ++row) {
    const bool is_named =
        std::find(ids.begin(), ids.end(), batch.ids[static_cast<size_t>(row)]) != ids.end();
    if (is_named || is_given(row) || row == head_row || row - begin < first || end - row <= last)
      sequence.kept_rows.push_back(row);
  }
  return sequence;
}

}  // namespace

PrunedPass::PrunedPass(const ModelState& state, const SequenceBatch& batch,
                       const PassReaders& readers)
    : batch_(batch), observer_(state.observer.get()) {
  if (!state.drops_tokens() && observer_ == nullptr) return;
  const PruningSchedule& pruning = *state.pruning;
  const Architecture& a = state.architecture;
  const auto sequences = static_cast<size_t>(batch.layout.sequences());
  std::vector<CascadeSequence> tokens;
  std::vector<std::vector<int32_t>> lengths(a.layers.size());
  for (size_t s = 0; s < sequences; ++s) {
    tokens.push_back(sequence_of(state, batch, s, readers));
    const std::vector<int32_t> kept =
        tokens_kept(pruning, scheduled_model(a), tokens.back().tokens,
                    static_cast<int32_t>(tokens.back().kept_rows.size()));
    for (size_t layer = 0; layer < kept.size(); ++layer) lengths[layer].push_back(kept[layer]);
  }
  TokenCascade& cascade = cascade_.emplace(pruning, std::move(tokens), lengths);
  schedule_.lengths = std::move(lengths);
  schedule_.choose = [&cascade](int32_t layer, std::span<int32_t> kept) {
    cascade.choose(layer, kept);
  };
  schedule_.observe = [this, &cascade, &a](int32_t layer,
                                           std::span<const AttentionSequence> parts) {
    const LayerRecord& record = a.layer(layer);
    const QueryReach reach{.is_causal = a.mask == Mask::kCausal, .window = record.window};
    for (size_t s = 0; s < parts.size(); ++s)
      cascade.add(s, parts[s].column_mass, record.query_heads, reach);
    if (observer_ != nullptr) report(layer);
  };
  schedule_.observed_layers = observer_ != nullptr ? a.layer_count() : cascade.scored_layers();
  if (observer_ == nullptr) return;
  first_number_ = observer_->number(batch.layout.sequences());
  positions_.reserve(batch.ids.size());
}

void PrunedPass::report(int32_t layer) {
  for (size_t s = 0; s < static_cast<size_t>(batch_.layout.sequences()); ++s) {
    const int32_t first = batch_.layout.offsets[s];
    const std::span<const int32_t> rows = cascade_->alive(s);
    positions_.assign(rows.begin(), rows.end());
    for (int32_t& position : positions_) position -= first;
    const int32_t length = batch_.layout.length(static_cast<int64_t>(s));
    PruningRecord record{.sequence = first_number_ + static_cast<int64_t>(s),
                         .layer = layer,
                         .length = length,
                         .queries = static_cast<int32_t>(rows.size()),
                         .tokens = positions_,
                         .importance = cascade_->importance(s)};
    if (layer == 0)
      record.ids =
          std::span(batch_.ids).subspan(static_cast<size_t>(first), static_cast<size_t>(length));
    observer_->take(record);
  }
}

std::span<const int32_t> PrunedPass::survivors(size_t sequence) const {
  return cascade_ ? cascade_->alive(sequence) : std::span<const int32_t>();
}

}  // namespace tessera
