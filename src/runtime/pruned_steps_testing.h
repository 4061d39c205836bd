#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <numeric>
#include <span>
#include <vector>

#include "runtime/cache_pool.h"
#include "runtime/model_state.h"

namespace tessera::testing {

using Positions = std::vector<int32_t>;

// Of the models whose steps are run.
constexpr int32_t kStepLayers = 4, kStepWidth = 16;
constexpr size_t kStepHeads = 4;

// The definition, in double precision: each layer of a step runs alone over the rows that are alive
// there, with keys that are gathered from tables which hold all.
class Stepwise {
 public:
  Stepwise(ModelState& state, PruningSchedule schedule)
      : state_(state),
        schedule_(std::move(schedule)),
        pool_(state.weights.largest_page(), int64_t{1} << 28),
        keys_(kStepLayers),
        alive_(kStepLayers) {}
  ~Stepwise() {
    for (PageTable& table : keys_) pool_.release(table);
  }

  // The logits behind the last of the tokens.
  std::vector<float> step(const std::vector<int32_t>& ids) {
    const int32_t before = static_cast<int32_t>(ids_.size());
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    scores_.resize(ids_.size());
    if (before == 0) prompt_ = static_cast<int32_t>(ids.size());
    rows_.resize(ids.size());
    std::iota(rows_.begin(), rows_.end(), before);
    for (int32_t layer = 0; layer < kStepLayers; ++layer) {
      choose(layer, before);
      run(layer, before);
    }
    return logits_;
  }

  const Positions& alive(int32_t layer) const { return alive_[static_cast<size_t>(layer)]; }

 private:
  int32_t tokens() const { return static_cast<int32_t>(ids_.size()); }

  bool reads_all(int32_t layer, int32_t before) const {
    if (before == 0) return layer == 0 || schedule_.prefill != Prefill::kPrune;
    return before == prompt_ && schedule_.prefill == Prefill::kSkip;
  }

  bool stays(int32_t position) const {
    const auto& named = schedule_.protect_ids;
    return position < schedule_.protect_first ||
           (position < prompt_ && position >= prompt_ - schedule_.protect_last) ||
           position >= tokens() - std::max(1, schedule_.protect_newest) ||
           std::find(named.begin(), named.end(), ids_[static_cast<size_t>(position)]) !=
               named.end();
  }

  void choose(int32_t layer, int32_t before) {
    Positions& now = alive_[static_cast<size_t>(layer)];
    Positions candidates = before == 0 ? Positions() : now;
    for (int32_t position = before; position < tokens(); ++position) candidates.push_back(position);
    if (layer > 0) {
      const Positions& below = alive(layer - 1);
      std::erase_if(candidates, [&](int32_t position) {
        return !std::binary_search(below.begin(), below.end(), position);
      });
    }
    if (!reads_all(layer, before)) {
      const Keep keep = schedule_.tokens[static_cast<size_t>(layer)];
      const int32_t base = schedule_.base == CountBase::kPrompt ? prompt_ : tokens();
      const double share = std::floor(keep.share * base + 1e-9);
      const int64_t staying = std::count_if(candidates.begin(), candidates.end(),
                                            [&](int32_t position) { return stays(position); });
      const int64_t wanted = std::max<int64_t>(
          {keep.count > 0 ? keep.count : static_cast<int64_t>(share), schedule_.minimum, staying});
      std::stable_sort(candidates.begin(), candidates.end(), [&](int32_t a, int32_t b) {
        if (stays(a) != stays(b)) return stays(a);
        return scores_[static_cast<size_t>(a)] > scores_[static_cast<size_t>(b)];
      });
      if (std::ssize(candidates) > wanted) candidates.resize(static_cast<size_t>(wanted));
      std::sort(candidates.begin(), candidates.end());
    }
    now = candidates;
    std::erase_if(rows_,
                  [&](int32_t row) { return !std::binary_search(now.begin(), now.end(), row); });
  }

  void run(int32_t layer, int32_t before) {
    PageTable gathered;
    for (const int32_t position : alive(layer))
      if (position < before) copy_key(layer, keys_[static_cast<size_t>(layer)], position, gathered);
    ASSERT_TRUE(pool_.reserve(gathered, static_cast<int32_t>(rows_.size())).ok());
    TokenLayout layout;
    layout.append(static_cast<int32_t>(rows_.size()), 0);
    layout.positions = rows_;
    std::vector<int32_t> ids;
    std::vector<float> states, hidden;
    for (const int32_t row : rows_) {
      ids.push_back(ids_[static_cast<size_t>(row)]);
      if (layer > 0) states.insert(states.end(), states_[row].begin(), states_[row].end());
    }
    const bool scored = before > 0 || schedule_.prefill != Prefill::kSkip;
    const RowSchedule observed{
        .lengths = {kStepLayers, {static_cast<int32_t>(rows_.size())}},
        .choose = {},
        .observe = [&](int32_t,
                       std::span<const AttentionSequence> sequences) { add(sequences.front()); },
        .observed_layers = {scored ? kStepLayers : 0}};
    PageTable none;
    std::vector<PageTable*> tables(kStepLayers, &none);
    tables[static_cast<size_t>(layer)] = &gathered;
    ForwardInput input{
        .ids = ids,
        .layout = &layout,
        .tables = tables,
        .head_rows = layer + 1 == kStepLayers ? HeadRows::kLastOfEach : HeadRows::kNone,
        .first_layer = layer,
        .end_layer = layer + 1,
        .states = states,
        .schedule = &observed};
    ForwardOutput output{.last_hidden = &hidden};
    const Status status = state_.executor->run(input, output);
    ASSERT_TRUE(status.ok()) << status.message();
    for (size_t i = 0; i < rows_.size(); ++i) {
      const auto from = hidden.begin() + static_cast<int64_t>(i) * kStepWidth;
      states_[rows_[i]].assign(from, from + kStepWidth);
      // Rows that left the prompt have no keys here.
      PageTable& all = keys_[static_cast<size_t>(layer)];
      while (all.tokens() < rows_[i]) add_gap(all);
      copy_key(layer, gathered, gathered.tokens() - static_cast<int32_t>(rows_.size() - i), all);
    }
    pool_.release(gathered);
    logits_.assign(output.logits.begin(), output.logits.end());
  }

  void add(const AttentionSequence& sequence) {
    if (schedule_.decay < 1)
      for (double& score : scores_) score *= schedule_.decay;
    const Positions& keys = sequence.keys->positions;
    for (size_t j = 0; j < keys.size(); ++j) {
      double sum = 0, seen = 0;
      for (size_t head = 0; head < kStepHeads; ++head)
        sum += double{sequence.column_mass[head * keys.size() + j]};
      for (int32_t q = 0; q < sequence.queries; ++q)
        seen += sequence.query_positions[q] >= keys[j] ? 1 : 0;
      scores_[static_cast<size_t>(keys[j])] +=
          schedule_.scale == ImportanceScale::kQueries ? sum / seen : sum;
    }
  }

  void add_gap(PageTable& table) {
    ASSERT_TRUE(pool_.reserve(table, 1).ok());
    table.positions.push_back(table.tokens());
  }

  // Copies a key and its values, number by number, behind those of another table.
  void copy_key(int32_t layer, const PageTable& from, int32_t key, PageTable& to) {
    const PageShape& shape = state_.weights.layers[static_cast<size_t>(layer)].attention.pages;
    ASSERT_TRUE(pool_.reserve(to, 1).ok());
    const std::byte* source = from.pages[static_cast<size_t>(key / kPageTokens)];
    std::byte* target = to.pages[static_cast<size_t>(to.tokens() / kPageTokens)];
    const int64_t a = key % kPageTokens, b = to.tokens() % kPageTokens;
    const auto copy = [&](int64_t matrix, int64_t from_number, int64_t to_number, int64_t bytes) {
      std::memcpy(target + matrix + to_number * bytes, source + matrix + from_number * bytes,
                  static_cast<size_t>(bytes));
    };
    const int64_t number = shape.number_bytes();
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      for (int64_t d = 0; d < shape.key_bytes() / number; ++d)
        copy(shape.keys_at(head), d * kPageTokens + a, d * kPageTokens + b, number);
      for (int64_t d = 0; d < shape.lower_key_bytes(); ++d)
        copy(shape.lower_keys_at(head), d * kPageTokens + a, d * kPageTokens + b, 1);
      copy(shape.values_at(head), a, b, shape.value_bytes());
      if (shape.dtype != DType::kI8) continue;
      copy(shape.key_scales_at(head), a, b, sizeof(float));
      copy(shape.value_scales_at(head), a, b, sizeof(float));
    }
    to.positions.push_back(from.positions[static_cast<size_t>(key)]);
  }

  ModelState& state_;
  PruningSchedule schedule_;
  CachePool pool_;
  std::vector<PageTable> keys_;  // [layer]: of every token that ran there
  std::vector<Positions> alive_;
  Positions rows_;  // of the step, that are alive
  std::vector<int32_t> ids_;
  std::vector<double> scores_;
  std::map<int32_t, std::vector<float>> states_;
  std::vector<float> logits_;
  int32_t prompt_ = 0;
};

}  // namespace tessera::testing
