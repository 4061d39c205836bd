#include "compress/item.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "io/json.h"

namespace tessera {
namespace {

constexpr const char* kSelectable[] = {"qkv", "query", "key", "value", "attention_output", "ffn"};

bool holds(const std::vector<std::string>& list, const char* name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

class Lister {
 public:
  Lister(const Architecture& architecture, const CompressOptions& options)
      : a_(architecture), options_(options) {}

  std::vector<Item> list(FusedQkv fused) const {
    std::vector<Item> items;
    for (int32_t layer = 0; layer < a_.layer_count(); ++layer) {
      for (const LayerMapSlot& slot : kLayerMapSlots) add(slot, layer, fused, items);
    }
    return items;
  }

 private:
  bool selects(Role role, int32_t layer) const {
    const std::vector<int32_t>& layers = options_.layers;
    if (!layers.empty() && std::find(layers.begin(), layers.end(), layer) == layers.end())
      return false;
    const std::vector<std::string>& chosen = options_.matrices;
    if (chosen.empty() || holds(chosen, name(role))) return true;
    const bool is_qkv = role == Role::kQuery || role == Role::kKey || role == Role::kValue;
    if (is_qkv) return holds(chosen, "qkv");
    return role == Role::kQkv && selects(Role::kQuery, layer) && selects(Role::kKey, layer) &&
           selects(Role::kValue, layer);
  }

  bool equally_selected(const std::vector<MapPart>& parts) const {
    const auto is_chosen = [&](const MapPart& part) {
      const std::vector<std::string>& chosen = options_.matrices;
      return chosen.empty() || holds(chosen, "qkv") || holds(chosen, name(part.role));
    };
    return std::all_of(parts.begin(), parts.end(), is_chosen) ||
           std::none_of(parts.begin(), parts.end(), is_chosen);
  }

  // One tensor a part, or one that holds them all.
  void add(const LayerMapSlot& slot, int32_t layer, FusedQkv fused,
           std::vector<Item>& items) const {
    const LayerRecord& record = a_.layer(layer);
    const LinearNames& names = record.names.*slot.names;
    const MapShape shape = slot.shape(a_, record);
    const bool is_fused = names.weights.size() == 1 && shape.parts.size() > 1;
    const bool as_whole = is_fused && slot.map == LayerMap::kQkv && fused == FusedQkv::kWhole &&
                          equally_selected(shape.parts);
    int64_t first = 0;
    for (size_t i = 0; i < shape.parts.size(); ++i) {
      const MapPart& part = shape.parts[i];
      const size_t tensor = is_fused ? 0 : i;
      Item item{.layer = layer,
                .map = slot.map,
                .role = part.role,
                .tensor = tensor_name(a_.names, names.weights[tensor], layer),
                .order = names.order,
                .first = is_fused ? first : 0,
                .outputs = part.outputs,
                .inputs = shape.inputs,
                .tensor_outputs = is_fused ? shape.outputs() : part.outputs};
      if (!names.biases.empty()) item.bias = tensor_name(a_.names, names.biases[tensor], layer);
      if (as_whole) {
        item.role = Role::kQkv;
        item.outputs = shape.outputs();
      }
      item.selected = selects(item.role, layer);
      first += part.outputs;
      items.push_back(std::move(item));
      if (as_whole) return;
    }
  }

  const Architecture& a_;
  const CompressOptions& options_;
};

}  // namespace

const char* name(Role role) {
  constexpr const char* kNames[] = {"qkv", "query", "key", "value", "attention_output",
                                    "ffn", "head"};
  return kNames[static_cast<size_t>(role)];
}

std::string Item::name() const {
  return is_whole_tensor() ? tensor : fmt::format("{}.{}", tensor, tessera::name(role));
}

Result<std::vector<Item>> list_items(const Architecture& architecture,
                                     const CompressOptions& options, FusedQkv fused) {
  for (const std::string& matrix : options.matrices) {
    if (holds({std::begin(kSelectable), std::end(kSelectable)}, matrix.c_str())) continue;
    return invalid_input(fmt::format("matrices: expected some of {}, found {}",
                                     fmt::join(kSelectable, ", "), quote(matrix)));
  }
  for (const int32_t layer : options.layers) {
    if (layer >= 0 && layer < architecture.layer_count()) continue;
    return invalid_input(fmt::format("layers: expected numbers from 0 to {}, found {}",
                                     architecture.layer_count() - 1, layer));
  }
  std::vector<Item> items = Lister(architecture, options).list(fused);
  for (size_t i = 0; i < items.size(); ++i) items[i].number = i;
  return items;
}

}  // namespace tessera
