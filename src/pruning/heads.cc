#include "pruning/heads.h"

#include <algorithm>

namespace tessera {

HeadCascade::HeadCascade(const PruningSchedule& schedule, const ScheduledModel& model,
                         Prefill first_step)
    : kept_(heads_kept(schedule, model)),
      first_step_(first_step),
      scores_(static_cast<size_t>(model.query_heads)),
      layers_of_(static_cast<size_t>(model.query_heads), model.layers) {}

void HeadCascade::begin(int32_t before, int32_t tokens) {
  step_ = before == 0 ? 0 : before - first_tokens_ + 1;
  if (before > 0) return;
  first_tokens_ = tokens;
  has_scores_ = false;
  std::fill(scores_.begin(), scores_.end(), 0.0);
  std::fill(layers_of_.begin(), layers_of_.end(), static_cast<int32_t>(kept_.size()));
}

int32_t HeadCascade::alive(int32_t layer) const {
  return static_cast<int32_t>(std::count_if(layers_of_.begin(), layers_of_.end(),
                                            [&](int32_t layers) { return layers > layer; }));
}

bool HeadCascade::may_drop() const {
  for (size_t layer = 0; layer < kept_.size(); ++layer) {
    if (alive(static_cast<int32_t>(layer)) > kept_[layer]) return true;
  }
  return false;
}

bool HeadCascade::keeps_all() const {
  if (step_ == 0) return first_step_ != Prefill::kPrune;
  return step_ == 1 && first_step_ == Prefill::kSkip;
}

bool HeadCascade::observes(int32_t layer) const {
  if (layer >= static_cast<int32_t>(kept_.size())) return false;
  if (!is_scored()) return false;
  if (step_ != 0 || first_step_ != Prefill::kPrune) return may_drop();
  // The first layer of a prompt has all, and the next step's leave by what it gave.
  if (layer == 0 && alive(0) > kept_[0]) return true;
  // Behind the first layer of a text, which has all, a layer has no more than the one before.
  for (size_t later = static_cast<size_t>(layer) + 1; later < kept_.size(); ++later) {
    const int32_t alive_there = alive(static_cast<int32_t>(later));
    const int32_t most = later == 1 ? alive_there : std::min(alive_there, kept_[later - 1]);
    if (most > kept_[later]) return true;
  }
  return false;
}

void HeadCascade::choose(int32_t layer, std::span<uint8_t> live) {
  const int32_t kept = kept_[static_cast<size_t>(layer)];
  const auto weakest = [&] {
    size_t found = scores_.size();
    for (size_t h = 0; h < scores_.size(); ++h) {
      if (layers_of_[h] > layer && (found == scores_.size() || scores_[h] <= scores_[found]))
        found = h;
    }
    return found;
  };
  if (has_scores_ && !keeps_all()) {
    for (int32_t left = alive(layer); left > kept; --left) layers_of_[weakest()] = layer;
  }
  for (size_t h = 0; h < live.size(); ++h) live[h] = layers_of_[h] > layer ? 1 : 0;
}

void HeadCascade::add(const float* magnitudes, int64_t rows) {
  const size_t heads = scores_.size();
  for (int64_t row = 0; row < rows; ++row, magnitudes += heads) {
    for (size_t h = 0; h < heads; ++h) scores_[h] += double{magnitudes[h]};
  }
  has_scores_ = has_scores_ || rows > 0;
}

}  // namespace tessera
