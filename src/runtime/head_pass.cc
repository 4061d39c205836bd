#include "runtime/head_pass.h"

#include <algorithm>
#include <utility>

namespace tessera {

HeadPass::HeadPass(const ModelState& state, size_t texts) {
  if (!state.drops_heads()) return;
  const ScheduledModel model = scheduled_model(state.architecture);
  texts_.assign(texts, HeadCascade(*state.pruning, model, Prefill::kPrune));
  for (HeadCascade& each : texts_) sequences_.push_back(&each);
  link(state);
}

HeadPass::HeadPass(const ModelState& state, std::vector<HeadCascade*> sequences)
    : sequences_(std::move(sequences)) {
  link(state);
}

void HeadPass::link(const ModelState& state) {
  const auto is_there = [](const HeadCascade* cascade) { return cascade != nullptr; };
  is_pruned_ = std::any_of(sequences_.begin(), sequences_.end(), is_there);
  if (!is_pruned_) return;
  schedule_.choose = [this](int32_t layer, std::span<uint8_t> live) {
    const size_t heads = live.size() / sequences_.size();
    for (HeadCascade* each : sequences_) {
      if (each != nullptr) {
        each->choose(layer, live.first(heads));
      } else {
        std::fill_n(live.begin(), heads, uint8_t{1});
      }
      live = live.subspan(heads);
    }
  };
  // Who is told what heads gave is told of all layers.
  const bool is_observed = state.observer != nullptr;
  const auto counts = [is_observed](const HeadCascade& each, int32_t layer) {
    return is_observed ? each.is_scored() : each.observes(layer);
  };
  schedule_.observe = [this, counts](int32_t layer, const TokenLayout& layout,
                                     const float* magnitudes) {
    for (size_t s = 0; s < sequences_.size(); ++s) {
      HeadCascade* each = sequences_[s];
      if (each == nullptr || !counts(*each, layer)) continue;
      const auto heads = static_cast<int64_t>(each->importance().size());
      each->add(magnitudes + layout.offsets[s] * heads, layout.length(static_cast<int64_t>(s)));
    }
  };
  for (const HeadCascade* each : sequences_) {
    int32_t& layers = schedule_.observed_layers;
    while (each != nullptr && layers < state.architecture.layer_count() && counts(*each, layers))
      ++layers;
  }
}

}  // namespace tessera
