#include "pruning/cascade.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/topk/topk.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

// How many of the rows from `row` on are queries that see it; rows ascend.
int64_t queries_that_see(std::span<const int32_t> rows, size_t row, QueryReach reach) {
  if (!reach.is_causal) return static_cast<int64_t>(rows.size());
  if (reach.window <= 0) return static_cast<int64_t>(rows.size() - row);
  const auto first = rows.begin() + static_cast<int64_t>(row);
  return std::lower_bound(first, rows.end(), *first + reach.window) - first;
}

}  // namespace

TokenCascade::TokenCascade(const PruningSchedule& schedule, std::vector<CascadeSequence> sequences,
                           std::vector<std::vector<int32_t>> lengths)
    : decay_(schedule.decay), scale_(schedule.scale), lengths_(std::move(lengths)) {
  int32_t longest = 0;
  for (CascadeSequence& sequence : sequences) {
    State state{.rows = std::vector<int32_t>(at(sequence.tokens)),
                .scores = std::vector<float>(at(sequence.tokens)),
                .kept_rows = std::move(sequence.kept_rows)};
    std::iota(state.rows.begin(), state.rows.end(), sequence.first_row);
    longest = std::max(longest, sequence.tokens);
    states_.push_back(std::move(state));
  }
  for (size_t layer = 0; layer < lengths_.size(); ++layer) {
    for (size_t s = 0; s < states_.size(); ++s) {
      const int32_t before =
          layer == 0 ? static_cast<int32_t>(states_[s].rows.size()) : lengths_[layer - 1][s];
      if (lengths_[layer][s] < before) scored_layers_ = static_cast<int32_t>(layer);
    }
  }
  keys_.resize(at(longest));
  places_.resize(at(longest));
  scratch_.resize(at(topk::scratch_size(longest)));
}

void TokenCascade::add(size_t sequence, const float* mass, int32_t heads, QueryReach reach) {
  State& state = states_[sequence];
  const size_t alive = state.rows.size();
  const std::span<float> sums(keys_.data(), alive);
  std::fill(sums.begin(), sums.end(), 0.0f);
  for (int32_t head = 0; head < heads; ++head) {
    const float* row = mass + int64_t{head} * static_cast<int64_t>(alive);
    for (size_t j = 0; j < alive; ++j) sums[j] += row[j];
  }
  if (scale_ == ImportanceScale::kQueries) {
    for (size_t j = 0; j < alive; ++j)
      sums[j] /= static_cast<float>(queries_that_see(state.rows, j, reach));
  }
  const auto decay = static_cast<float>(decay_);
  for (size_t j = 0; j < alive; ++j) state.scores[j] = decay * state.scores[j] + sums[j];
}

std::span<const int32_t> TokenCascade::survivors(const State& state, int32_t count) {
  std::copy(state.scores.begin(), state.scores.end(), keys_.begin());
  auto place = state.rows.begin();
  for (const int32_t row : state.kept_rows) {
    place = std::lower_bound(place, state.rows.end(), row);
    keys_[at(place - state.rows.begin())] = std::numeric_limits<float>::infinity();
  }
  topk::kernels.run({.x = keys_.data(),
                     .n = static_cast<int64_t>(state.rows.size()),
                     .k = count,
                     .indices = places_.data(),
                     .scratch = scratch_.data()},
                    {0, 1});
  return {places_.data(), at(count)};
}

void TokenCascade::choose(int32_t layer, std::span<int32_t> kept) {
  int32_t before = 0;  // rows of the sequences before
  auto target = kept.begin();
  for (size_t s = 0; s < states_.size(); ++s) {
    State& state = states_[s];
    const auto alive = static_cast<int32_t>(state.rows.size());
    size_t next = 0;
    for (const int32_t place : survivors(state, lengths_[at(layer)][s])) {
      *target++ = before + place;
      state.rows[next] = state.rows[at(place)];
      state.scores[next++] = state.scores[at(place)];
    }
    state.rows.resize(next);
    state.scores.resize(next);
    before += alive;
  }
}

}  // namespace tessera
