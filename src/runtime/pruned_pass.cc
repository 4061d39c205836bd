#include "runtime/pruned_pass.h"

#include <algorithm>
#include <utility>

#include "runtime/whole_sequences.h"

namespace tessera {
namespace {

// The first and the last tokens of each sequence that never leave.
struct Ends {
  int32_t first = 0;
  int32_t last = 0;
};

Ends protected_ends(const ModelState& state, PassResult result) {
  Ends ends{state.pruning->protect_first, state.pruning->protect_last};
  const auto read_first = [&] { ends.first = std::max(ends.first, 1); };
  const auto read_last = [&] { ends.last = std::max(ends.last, 1); };
  if (result != PassResult::kEmbeddings) {
    const HeadRows rows = head_rows(state.architecture);
    if (rows == HeadRows::kFirstOfEach) read_first();
    if (rows == HeadRows::kLastOfEach) read_last();
  }
  if (result != PassResult::kHead) {
    for (const Pooling pooling : state.sentence_encoder.poolings) {
      if (pooling == Pooling::kFirstToken) read_first();
      if (pooling == Pooling::kLastToken) read_last();
    }
  }
  return ends;
}

CascadeSequence sequence_of(const PruningSchedule& pruning, const SequenceBatch& batch, size_t s,
                            Ends ends) {
  const int32_t first = batch.layout.offsets[s], end = batch.layout.offsets[s + 1];
  CascadeSequence sequence{.first_row = first, .tokens = end - first};
  for (int32_t row = first; row < end; ++row) {
    const auto& ids = pruning.protect_ids;
    const bool is_named =
        std::find(ids.begin(), ids.end(), batch.ids[static_cast<size_t>(row)]) != ids.end();
    if (is_named || row - first < ends.first || end - row <= ends.last)
      sequence.kept_rows.push_back(row);
  }
  return sequence;
}

}  // namespace

PrunedPass::PrunedPass(const ModelState& state, const SequenceBatch& batch, PassResult result) {
  if (!state.pruning || state.pruning->keeps_all()) return;
  const PruningSchedule& pruning = *state.pruning;
  const Architecture& a = state.architecture;
  const auto sequences = static_cast<size_t>(batch.layout.sequences());
  std::vector<CascadeSequence> tokens;
  std::vector<std::vector<int32_t>> lengths(a.layers.size());
  for (size_t s = 0; s < sequences; ++s) {
    tokens.push_back(sequence_of(pruning, batch, s, protected_ends(state, result)));
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
  schedule_.observe = [&cascade, &a](int32_t layer, std::span<const AttentionSequence> parts) {
    const LayerRecord& record = a.layer(layer);
    const QueryReach reach{.is_causal = a.mask == Mask::kCausal, .window = record.window};
    for (size_t s = 0; s < parts.size(); ++s)
      cascade.add(s, parts[s].column_mass, record.query_heads, reach);
  };
  schedule_.observed_layers = cascade.scored_layers();
}

std::span<const int32_t> PrunedPass::survivors(size_t sequence) const {
  return cascade_ ? cascade_->alive(sequence) : std::span<const int32_t>();
}

}  // namespace tessera
