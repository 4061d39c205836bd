#include "compress/item.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "io/json.h"
#include "model/weights.h"

namespace tessera {
namespace {

constexpr const char* kSelectable[] = {"qkv", "query", "key", "value", "attention_output", "ffn"};

struct Part {
  Role role;
  int64_t outputs;
};

bool holds(const std::vector<std::string>& list, const char* name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

class Lister {
 public:
  Lister(const Architecture& architecture, const TensorNames& names, const CompressOptions& options)
      : a_(architecture), names_(names), options_(options) {}

  std::vector<Item> list(FusedQkv fused) const {
    const std::vector<Part> qkv = {{Role::kQuery, a_.query_width()},
                                   {Role::kKey, a_.kv_width()},
                                   {Role::kValue, a_.kv_width()}};
    std::vector<Part> ffn_in(a_.ffn == Ffn::kGated ? 2 : 1, {Role::kFfn, a_.ffn_size});
    std::vector<Item> items;
    for (int32_t layer = 0; layer < a_.layers; ++layer) {
      const LayerNames& names = names_.layer;
      const bool in_parts = fused == FusedQkv::kParts || !equally_selected(qkv);
      add(names.qkv, LayerMap::kQkv, layer, a_.hidden_size, qkv, in_parts, items);
      add(names.attention_output, LayerMap::kAttentionOutput, layer, a_.query_width(),
          {{Role::kAttentionOutput, a_.hidden_size}}, false, items);
      add(names.ffn_in, LayerMap::kFfnIn, layer, a_.hidden_size, ffn_in, true, items);
      add(names.ffn_out, LayerMap::kFfnOut, layer, a_.ffn_size, {{Role::kFfn, a_.hidden_size}},
          false, items);
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

  bool equally_selected(const std::vector<Part>& parts) const {
    const auto is_chosen = [&](const Part& part) {
      const std::vector<std::string>& chosen = options_.matrices;
      return chosen.empty() || holds(chosen, "qkv") || holds(chosen, name(part.role));
    };
    return std::all_of(parts.begin(), parts.end(), is_chosen) ||
           std::none_of(parts.begin(), parts.end(), is_chosen);
  }

  // One tensor a part, or one that holds them all.
  void add(const LinearNames& names, LayerMap map, int32_t layer, int64_t inputs,
           const std::vector<Part>& parts, bool in_parts, std::vector<Item>& items) const {
    const bool is_fused = names.weights.size() == 1 && parts.size() > 1;
    int64_t total = 0, first = 0;
    for (const Part& part : parts) total += part.outputs;
    for (size_t i = 0; i < parts.size(); ++i) {
      const size_t tensor = is_fused ? 0 : i;
      Item item{.layer = layer,
                .map = map,
                .role = parts[i].role,
                .tensor = tensor_name(names_, names.weights[tensor], layer),
                .order = names.order,
                .first = is_fused ? first : 0,
                .outputs = parts[i].outputs,
                .inputs = inputs,
                .tensor_outputs = is_fused ? total : parts[i].outputs};
      if (!names.biases.empty()) item.bias = tensor_name(names_, names.biases[tensor], layer);
      if (is_fused && !in_parts) {
        item.role = Role::kQkv;
        item.outputs = total;
      }
      item.selected = selects(item.role, layer);
      first += parts[i].outputs;
      items.push_back(std::move(item));
      if (is_fused && !in_parts) return;
    }
  }

  const Architecture& a_;
  const TensorNames& names_;
  const CompressOptions& options_;
};

}  // namespace

const char* name(Role role) {
  constexpr const char* kNames[] = {"qkv", "query", "key", "value", "attention_output", "ffn"};
  return kNames[static_cast<size_t>(role)];
}

std::string Item::name() const {
  return is_whole_tensor() ? tensor : fmt::format("{}.{}", tensor, tessera::name(role));
}

Result<std::vector<Item>> list_items(const Architecture& architecture, const TensorNames& names,
                                     const CompressOptions& options, FusedQkv fused) {
  for (const std::string& matrix : options.matrices) {
    if (holds({std::begin(kSelectable), std::end(kSelectable)}, matrix.c_str())) continue;
    return invalid_input(fmt::format("matrices: expected some of {}, found {}",
                                     fmt::join(kSelectable, ", "), quote(matrix)));
  }
  for (const int32_t layer : options.layers) {
    if (layer >= 0 && layer < architecture.layers) continue;
    return invalid_input(fmt::format("layers: expected numbers from 0 to {}, found {}",
                                     architecture.layers - 1, layer));
  }
  std::vector<Item> items = Lister(architecture, names, options).list(fused);
  for (size_t i = 0; i < items.size(); ++i) items[i].number = i;
  return items;
}

}  // namespace tessera
