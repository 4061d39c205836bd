#include "pruning/cascade.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/topk/topk.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

int64_t queries_that_see(const KeyMass& found, int32_t key) {
  const std::span<const int32_t> queries = found.queries;
  if (!found.reach.is_causal) return static_cast<int64_t>(queries.size());
  const auto first = std::lower_bound(queries.begin(), queries.end(), key);
  if (found.reach.window <= 0) return queries.end() - first;
  return std::lower_bound(first, queries.end(), int64_t{key} + found.reach.window) - first;
}

bool contains(std::span<const int32_t> list, int32_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

}  // namespace

void CascadeScratch::fit(int32_t tokens) {
  if (sums.size() >= at(tokens)) return;
  sums.resize(at(tokens));
  places.resize(at(tokens));
  of_top_k.resize(at(topk::scratch_size(tokens)));
}

TokenCascade::TokenCascade(const PruningSchedule& schedule, const ScheduledModel& model,
                           CascadeKind kind)
    : schedule_(&schedule),
      model_{.layers = model.layers, .positions = model.positions},
      kind_(kind) {}

void TokenCascade::begin(int32_t before, std::span<const int32_t> ids,
                         std::span<const int32_t> kept) {
  forget_behind(before);
  const auto count_of_ids = static_cast<int32_t>(ids.size());
  if (before == 0) first_tokens_ = count_of_ids;
  const size_t all = at(before + count_of_ids);
  scores_.resize(all);
  layers_of_.resize(all, model_.layers);
  kept_.resize(all);
  for (int32_t position = before; position < tokens(); ++position) entered_.push_back(position);
  alive_ = entered_;
  newest_ = kind_ == CascadeKind::kText ? std::numeric_limits<int32_t>::max()
                                        : tokens() - std::max(1, schedule_->protect_newest);
  protect(before, ids, kept);
  count();
}

void TokenCascade::forget_behind(int32_t tokens) {
  scores_.resize(at(tokens));
  layers_of_.resize(at(tokens));
  kept_.resize(at(tokens));
  while (!entered_.empty() && entered_.back() >= tokens) entered_.pop_back();
}

void TokenCascade::protect(int32_t before, std::span<const int32_t> ids,
                           std::span<const int32_t> kept) {
  for (int32_t position = before; position < tokens(); ++position) {
    const bool at_an_end = is_first_step() && (position < schedule_->protect_first ||
                                               tokens() - position <= schedule_->protect_last);
    kept_[at(position)] =
        at_an_end || contains(schedule_->protect_ids, ids[at(position - before)]) ? 1 : 0;
  }
  for (const int32_t position : kept) kept_[at(position)] = 1;
}

bool TokenCascade::keeps_all_in(int32_t layer) const {
  const bool is_prompt = kind_ == CascadeKind::kPrompt;
  if (is_first_step()) return layer == 0 || (is_prompt && schedule_->prefill != Prefill::kPrune);
  return schedule_->prefill == Prefill::kSkip && tokens() == first_tokens_ + 1;
}

bool TokenCascade::stays(int32_t position) const {
  return kept_[at(position)] != 0 || position >= newest_;
}

int32_t TokenCascade::protected_tokens() const {
  int32_t count = 0;
  for (int32_t position = 0; position < tokens(); ++position) count += stays(position) ? 1 : 0;
  return count;
}

// Protected tokens are alive in every layer, so that they are counted once.
void TokenCascade::count() {
  const std::vector<int32_t> wanted =
      tokens_kept(*schedule_, model_, tokens(), protected_tokens(), first_tokens_);
  lengths_.resize(at(model_.layers));
  held_.resize(at(model_.layers));
  int32_t most = tokens();
  for (int32_t layer = 0; layer < model_.layers; ++layer) {
    most = std::min(most, is_first_step() ? tokens() : held_[at(layer)] + 1);
    if (!keeps_all_in(layer)) most = std::min(most, wanted[at(layer)]);
    lengths_[at(layer)] = most;
  }
  if (is_first_step()) held_ = lengths_;
}

bool TokenCascade::may_drop(int32_t layer) const {
  if (is_first_step()) return false;
  for (int32_t l = 0; l <= layer; ++l) {
    if (lengths_[at(l)] <= held_[at(l)]) return true;
  }
  return false;
}

bool TokenCascade::is_scored() const {
  return kind_ == CascadeKind::kText || !is_first_step() || schedule_->prefill != Prefill::kSkip;
}

int32_t TokenCascade::scored_layers() const {
  if (schedule_->keeps_all_tokens()) return 0;
  if (kind_ == CascadeKind::kPrompt) return is_scored() ? model_.layers : 0;
  int32_t last = 0;  // that tokens leave in front of
  for (int32_t layer = 1; layer < model_.layers; ++layer)
    if (lengths_[at(layer)] < lengths_[at(layer - 1)]) last = layer;
  return last;
}

std::span<const int32_t> TokenCascade::choose(int32_t layer, CascadeScratch& scratch) {
  std::erase_if(alive_, [&](int32_t position) { return !is_alive(position, layer); });
  const size_t candidates = alive_.size(), kept = std::min(candidates, at(lengths_[at(layer)]));
  const std::span<int32_t> places(scratch.places.data(), kept);
  if (kept == candidates) {
    std::iota(places.begin(), places.end(), 0);
  } else {
    for (size_t i = 0; i < candidates; ++i) {
      scratch.sums[i] =
          stays(alive_[i]) ? std::numeric_limits<float>::infinity() : scores_[at(alive_[i])];
    }
    topk::kernels.run({.x = scratch.sums.data(),
                       .n = static_cast<int64_t>(candidates),
                       .k = static_cast<int64_t>(kept),
                       .indices = places.data(),
                       .scratch = scratch.of_top_k.data()},
                      {0, 1});
    size_t next = 0;
    for (size_t i = 0; i < candidates; ++i) {
      if (next < kept && at(places[next]) == i) {
        alive_[next++] = alive_[i];
      } else {
        layers_of_[at(alive_[i])] = layer;
      }
    }
    alive_.resize(kept);
  }
  if (layer == 0) entered_.assign(alive_.begin(), alive_.end());
  held_[at(layer)] = static_cast<int32_t>(kept);
  return places;
}

void TokenCascade::add(const KeyMass& found, CascadeScratch& scratch) {
  const size_t keys = found.keys.size();
  const std::span<float> sums(scratch.sums.data(), keys);
  std::fill(sums.begin(), sums.end(), 0.0f);
  for (int32_t head = 0; head < found.heads; ++head) {
    const float* row = found.mass + int64_t{head} * static_cast<int64_t>(keys);
    for (size_t j = 0; j < keys; ++j) sums[j] += row[j];
  }
  if (schedule_->scale == ImportanceScale::kQueries) {
    for (size_t j = 0; j < keys; ++j)
      sums[j] /= static_cast<float>(std::max<int64_t>(queries_that_see(found, found.keys[j]), 1));
  }
  if (schedule_->decay < 1) {
    const auto decay = static_cast<float>(schedule_->decay);
    for (const int32_t position : entered_) scores_[at(position)] *= decay;
  }
  for (size_t j = 0; j < keys; ++j) scores_[at(found.keys[j])] += sums[j];
}

std::vector<int32_t> most_alive(const PruningSchedule& schedule, const ScheduledModel& model,
                                std::span<const int32_t> prompt_ids, int32_t tokens) {
  const auto prompt = static_cast<int32_t>(prompt_ids.size());
  TokenCascade cascade(schedule, model, CascadeKind::kPrompt);
  cascade.begin(0, prompt_ids);
  std::vector<int32_t> most = cascade.lengths();
  // Whatever follows could be protected by its id.
  const int64_t may_stay = int64_t{cascade.protected_tokens()} +
                           (schedule.protect_ids.empty() ? 1 : tokens - prompt) +
                           schedule.protect_newest;
  const auto staying = static_cast<int32_t>(std::min<int64_t>(may_stay, tokens));
  const std::vector<int32_t> wanted = tokens_kept(schedule, model, tokens, staying, prompt);
  for (int32_t layer = 0; layer < model.layers; ++layer) {
    const int32_t later = std::min(wanted[at(layer)], most[at(layer)] + tokens - prompt);
    // A prompt that was not scored meets its first new token whole.
    const int32_t first = most[at(layer)] + (schedule.prefill == Prefill::kSkip ? 1 : 0);
    most[at(layer)] = std::min(tokens, std::max(first, later));
  }
  return most;
}

}  // namespace tessera
