#include "runtime/pruning_plan.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "linear/linear.h"
#include "model/slots.h"

namespace tessera {
namespace {

using nlohmann::ordered_json;

constexpr double kFloatBits = 32;

// The multiplications of a row in a layer.
struct RowWork {
  double always = 0;     // the FFN
  double per_heads = 0;  // maps of attention, with all heads
  double per_key = 0;    // of all heads
};

RowWork row_work(const ModelState& state, size_t layer) {
  RowWork work;
  for (const LayerMapSlot& slot : kLayerMapSlots) {
    const auto& map = state.weights.layers[layer].*slot.weights;
    if (map == nullptr) continue;
    const bool is_attention = slot.map == LayerMap::kQkv || slot.map == LayerMap::kAttentionOutput;
    (is_attention ? work.per_heads : work.always) += static_cast<double>(map->info().flops_per_row);
  }
  const LayerRecord& record = state.architecture.layers[layer];
  work.per_key = 2.0 * record.query_heads * record.head_size;
  return work;
}

// keys_and_values: how many of both together a row reads.
double work_of(const RowWork& row, double rows, double heads, double keys_and_values) {
  return rows * (row.always + heads * (row.per_heads + row.per_key * keys_and_values));
}

}  // namespace

PruningPlan plan_pruning(const ModelState& state, const PruningSchedule& schedule, int32_t tokens) {
  const ScheduledModel model = scheduled_model(state.architecture);
  const auto kept = static_cast<int32_t>(
      std::min<int64_t>(tokens, int64_t{schedule.protect_first} + schedule.protect_last));
  const std::vector<int32_t> alive = tokens_kept(schedule, model, tokens, kept);
  const std::vector<int32_t> heads = heads_kept(schedule, model);
  const bool reads_all = schedule.prefill != Prefill::kPrune && state.architecture.is_decoder();
  const double seen = state.architecture.mask == Mask::kCausal ? 0.5 : 1;
  const KeyPlanes& planes = schedule.planes;
  const double key_bits = planes.empty() ? kFloatBits : planes.upper_bits;
  const double value_bits = planes.empty() ? kFloatBits : planes.value_bits;
  PruningPlan plan;
  double reading = 0, dense = 0, generating = 0, dense_generating = 0, bits = 0, dense_bits = 0;
  for (size_t layer = 0; layer < alive.size(); ++layer) {
    const RowWork row = row_work(state, layer);
    const int32_t keys = alive[layer];
    const int32_t values =
        std::min(keys, values_kept(schedule, model, static_cast<int32_t>(layer), tokens));
    const int32_t all_heads = std::max(state.architecture.layers[layer].query_heads, 1);
    const int32_t stay = model.query_heads > 0 && layer > 0 ? heads[layer] : all_heads;
    const double share = static_cast<double>(stay) / all_heads;
    // Nothing is known of any token or head in front of the first layer.
    const int32_t rows = reads_all || layer == 0 ? tokens : keys;
    const double now = work_of(row, rows, share, 2 * seen * rows);
    const double whole = work_of(row, tokens, 1, 2 * seen * tokens);
    plan.layers.push_back({rows, stay, keys, values, now / whole});
    reading += now;
    dense += whole;
    generating += work_of(row, 1, share, keys + values);
    dense_generating += work_of(row, 1, 1, 2.0 * tokens);
    bits += share * (keys * key_bits + values * value_bits);
    dense_bits += 2 * kFloatBits * tokens;
  }
  plan.reading = reading / dense;
  plan.generating = generating / dense_generating;
  plan.cache = bits / dense_bits;
  return plan;
}

std::string Model::pruning_json(int32_t tokens) const {
  if (!state_->pruning) return "null";
  tokens = std::clamp(tokens, 1, state_->architecture.max_positions);
  const PruningPlan plan = plan_pruning(*state_, *state_->pruning, tokens);
  ordered_json json = {{"schedule", ordered_json::parse(to_json(*state_->pruning))},
                       {"tokens", tokens},
                       {"layers", ordered_json::array()},
                       {"work", plan.reading}};
  for (const LayerKept& layer : plan.layers) {
    json["layers"].push_back({{"tokens", layer.tokens},
                              {"heads", layer.heads},
                              {"keys", layer.keys},
                              {"values", layer.values},
                              {"work", layer.work}});
  }
  if (state_->architecture.is_decoder())
    json["generating"] = {{"work", plan.generating}, {"cache", plan.cache}};
  return json.dump();
}

}  // namespace tessera
