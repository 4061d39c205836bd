#include "runtime/pruned_pass.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "attention/remove_keys.h"
#include "runtime/whole_sequences.h"

namespace tessera {
namespace {

bool reads(const PassReaders& readers, Pooling pooling) {
  return std::find(readers.poolings.begin(), readers.poolings.end(), pooling) !=
         readers.poolings.end();
}

// Positions of a sequence that somebody reads alone, of which none is left out.
std::vector<int32_t> read_alone(const ModelState& state, const SequenceBatch& batch, size_t s,
                                const PassReaders& readers) {
  const int32_t begin = batch.layout.offsets[s], end = batch.layout.offsets[s + 1];
  std::vector<int32_t> positions;
  const auto add_up_to = [&](int64_t count) {
    for (int32_t position = 0; position < std::min<int64_t>(count, end - begin); ++position)
      positions.push_back(position);
  };
  if (readers.head == HeadRows::kFirstOfEach) add_up_to(1);
  if (reads(readers, Pooling::kFirstToken)) add_up_to(readers.skipped + 1);
  if (reads(readers, Pooling::kLastToken) && end > begin) positions.push_back(end - begin - 1);
  if (readers.head == HeadRows::kLastOfEach) {
    positions.push_back(last_head_row(batch.ids, batch.layout, static_cast<int64_t>(s),
                                      state.architecture.head_padding_id) -
                        begin);
  }
  for (const int32_t row : readers.head_rows) {
    if (row >= begin && row < end) positions.push_back(row - begin);
  }
  return positions;
}

}  // namespace

PrunedPass::PrunedPass(const ModelState& state, const SequenceBatch& batch,
                       const PassReaders& readers)
    : state_(state),
      layout_(batch.layout),
      ids_(batch.ids),
      heads_(state, static_cast<size_t>(batch.layout.sequences())) {
  const auto sequences = static_cast<size_t>(batch.layout.sequences());
  if (state.drops_tokens() || state.observer != nullptr) {
    own_.assign(sequences, TokenCascade(*state.pruning, scheduled_model(state.architecture),
                                        CascadeKind::kText));
  }
  for (size_t s = 0; s < own_.size(); ++s) {
    const std::span<const int32_t> ids(batch.ids.data() + batch.layout.offsets[s],
                                       batch.ids.data() + batch.layout.offsets[s + 1]);
    own_[s].begin(0, ids, read_alone(state, batch, s, readers));
    cascades_.push_back(&own_[s]);
  }
  make_schedule();
}

PrunedPass::PrunedPass(const ModelState& state, std::vector<TokenCascade*> cascades,
                       std::vector<HeadCascade*> heads, const TokenLayout& layout,
                       std::span<const int32_t> ids)
    : state_(state),
      layout_(layout),
      ids_(ids),
      cascades_(std::move(cascades)),
      heads_(state, std::move(heads)) {
  make_schedule();
}

void PrunedPass::schedule(ForwardInput& input) const {
  input.schedule = is_pruned_ ? &schedule_ : nullptr;
  input.heads = heads_.schedule();
}

void PrunedPass::make_schedule() {
  const auto is_there = [](const TokenCascade* cascade) { return cascade != nullptr; };
  is_pruned_ = std::any_of(cascades_.begin(), cascades_.end(), is_there);
  if (!is_pruned_) return;
  const size_t layers = state_.architecture.layers.size();
  schedule_.lengths.resize(layers);
  schedule_.most_keys.resize(layers);
  PruningObserver* observer = state_.observer.get();
  schedule_.counts_reads = observer != nullptr;
  int32_t longest = 0;
  bool enters = false;
  for (size_t s = 0; s < cascades_.size(); ++s) {
    TokenCascade* cascade = cascades_[s];
    rows_.push_back(layout_.length(static_cast<int64_t>(s)));
    const bool rows_leave = cascade != nullptr && cascade->is_first_step();
    for (size_t layer = 0; layer < layers; ++layer) {
      schedule_.lengths[layer].push_back(rows_leave ? cascade->lengths()[layer] : rows_.back());
      schedule_.most_keys[layer].push_back(
          cascade != nullptr ? cascade->lengths()[layer] : std::numeric_limits<int32_t>::max());
    }
    schedule_.observed_layers.push_back(0);
    if (cascade == nullptr) continue;
    schedule_.observed_layers.back() =
        observer != nullptr ? static_cast<int32_t>(layers) : cascade->scored_layers();
    if (observer != nullptr && cascade->number() < 0) cascade->set_number(observer->number(1));
    enters = enters || !rows_leave;
    longest = std::max(longest, cascade->tokens());
  }
  scratch_.fit(longest);
  leaves_.resize(static_cast<size_t>(longest));
  if (observer != nullptr) {
    const auto heads = static_cast<size_t>(state_.architecture.layer(0).query_heads);
    importance_.resize(static_cast<size_t>(longest));
    alive_heads_.reserve(heads);
    head_importance_.reserve(heads);
  }
  schedule_.choose = [this](int32_t layer, std::span<int32_t> kept) { choose(layer, kept); };
  schedule_.observe = [this](int32_t layer, std::span<const AttentionSequence> sequences) {
    observe(layer, sequences);
  };
  if (!enters) return;
  schedule_.enter = [this](int32_t layer, std::span<PageTable* const> tables) {
    enter(layer, tables);
  };
}

void PrunedPass::choose(int32_t layer, std::span<int32_t> kept) {
  int32_t before = 0;  // rows of the sequences before
  auto target = kept.begin();
  for (size_t s = 0; s < cascades_.size(); ++s) {
    const int32_t rows = rows_[s];
    if (cascades_[s] != nullptr && cascades_[s]->is_first_step()) {
      for (const int32_t place : cascades_[s]->choose(layer, scratch_)) *target++ = before + place;
      rows_[s] = static_cast<int32_t>(cascades_[s]->alive().size());
    } else {
      for (int32_t row = 0; row < rows; ++row) *target++ = before + row;
    }
    before += rows;
  }
}

void PrunedPass::enter(int32_t layer, std::span<PageTable* const> tables) {
  const AttentionShape& shape = state_.weights.layers[static_cast<size_t>(layer)].attention;
  // The newest token alone asks then, and sees every key; but a window is of positions in order.
  const KeyOrder order = shape.window == 0 ? KeyOrder::kAny : KeyOrder::kKept;
  for (size_t s = 0; s < cascades_.size(); ++s) {
    TokenCascade* cascade = cascades_[s];
    if (cascade == nullptr || cascade->is_first_step()) continue;
    PageTable& table = *tables[s];
    cascade->choose(layer, scratch_);
    const auto keys = static_cast<size_t>(table.tokens());
    for (size_t key = 0; key < keys; ++key)
      leaves_[key] = cascade->is_alive(table.positions[key], layer) ? 0 : 1;
    remove_keys(shape.pages, {leaves_.data(), keys}, order, table);
  }
}

void PrunedPass::observe(int32_t layer, std::span<const AttentionSequence> sequences) {
  const Architecture& a = state_.architecture;
  const LayerRecord& record = a.layer(layer);
  for (size_t s = 0; s < sequences.size(); ++s) {
    const AttentionSequence& sequence = sequences[s];
    if (!schedule_.observes(layer, s)) continue;
    if (cascades_[s]->is_scored()) {
      cascades_[s]->add(
          {.mass = sequence.column_mass,
           .heads = record.query_heads,
           .keys = sequence.keys->positions,
           .queries = {sequence.query_positions, static_cast<size_t>(sequence.queries)},
           .reach = {.is_causal = a.mask == Mask::kCausal, .window = record.window}},
          scratch_);
    }
    if (state_.observer != nullptr) report(layer, s, sequence);
  }
}

void PrunedPass::report(int32_t layer, size_t s, const AttentionSequence& sequence) {
  const TokenCascade& cascade = *cascades_[s];
  const std::span<const int32_t> alive = cascade.alive();
  for (size_t i = 0; i < alive.size(); ++i) importance_[i] = cascade.importance(alive[i]);
  PruningRecord record{.sequence = cascade.number(),
                       .step = cascade.step(),
                       .layer = layer,
                       .length = cascade.tokens(),
                       .queries = sequence.queries,
                       .tokens = alive,
                       .importance = {importance_.data(), alive.size()}};
  const HeadCascade* heads = heads_.of(s);
  if (heads != nullptr) report_heads(*heads, layer, record);
  CacheReads reads;
  for (int32_t head = 0; head < state_.architecture.layer(layer).query_heads; ++head)
    reads += sequence.reads[head];
  const CacheReadProfile profile = profile_of(reads, 1);
  if (sequence.queries == 1) record.reads = &profile;
  if (layer == 0) {
    record.ids = ids_.subspan(static_cast<size_t>(layout_.offsets[s]),
                              static_cast<size_t>(layout_.length(static_cast<int64_t>(s))));
  }
  state_.observer->take(record);
}

void PrunedPass::report_heads(const HeadCascade& heads, int32_t layer, PruningRecord& record) {
  alive_heads_.clear();
  head_importance_.clear();
  for (size_t head = 0; head < heads.importance().size(); ++head) {
    if (!heads.is_alive(static_cast<int32_t>(head), layer)) continue;
    alive_heads_.push_back(static_cast<int32_t>(head));
    head_importance_.push_back(static_cast<float>(heads.importance()[head]));
  }
  record.heads = alive_heads_;
  record.head_importance = head_importance_;
}

std::span<const int32_t> PrunedPass::survivors(size_t sequence) const {
  return own_.empty() ? std::span<const int32_t>() : own_[sequence].alive();
}

}  // namespace tessera
