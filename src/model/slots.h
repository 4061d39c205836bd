#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/architecture.h"
#include "model/weights.h"

// The tensors of a model: what each is for, how the architecture names it, where its weights are
// kept, and what shape is expected. Whatever concerns all tensors of a kind loops over these
// tables; a new tensor is a member of the names, one of the weights, and a row here.
namespace tessera {

// The linear maps of a layer, in the order they are run in. The matrices of a map read the same
// inputs.
enum class LayerMap { kQkv, kAttentionOutput, kFfnIn, kFfnOut };
inline constexpr int kLayerMaps = 4;

// What a matrix does. kQkv: queries, keys and values in one tensor that is treated as a whole.
enum class Role { kQkv, kQuery, kKey, kValue, kAttentionOutput, kFfn, kHead };

// The matrices that a map stacks by outputs. One tensor may hold them all.
struct MapPart {
  Role role;
  int64_t outputs;
};
struct MapShape {
  int64_t inputs = 0;
  std::vector<MapPart> parts;

  int64_t outputs() const;
};

struct LayerMapSlot {
  LayerMap map;
  std::string_view name;
  LinearNames LayerNames::*names;
  std::unique_ptr<Linear> LayerWeights::*weights;
  MapShape (*shape)(const Architecture& architecture, const LayerRecord& layer);
};
extern const LayerMapSlot kLayerMapSlots[kLayerMaps];  // in the order of LayerMap
const LayerMapSlot& slot_of(LayerMap map);

struct LayerNormSlot {
  NormNames LayerNames::*names;
  NormWeights LayerWeights::*weights;
  int64_t (*width)(const Architecture& architecture, const LayerRecord& layer);
};
inline constexpr int kLayerNorms = 8;
extern const LayerNormSlot kLayerNormSlots[kLayerNorms];

// Absent where the architecture has no head.
struct HeadMapSlot {
  LinearNames HeadNames::*names;
  std::unique_ptr<Linear> HeadWeights::*weights;
  MapShape (*shape)(const Architecture& architecture);
};
extern const HeadMapSlot kHeadMapSlots[2];

// Tables of rows that are looked up, and the norms that belong to no layer.
struct TableSlot {
  std::string TensorNames::*name;
  EmbeddingTable Weights::*weights;
  int64_t (*rows)(const Architecture& architecture);
};
extern const TableSlot kTableSlots[3];

struct ModelNormSlot {
  NormNames TensorNames::*names;
  NormWeights Weights::*weights;
  int64_t (*width)(const Architecture& architecture);
};
extern const ModelNormSlot kModelNormSlots[2];

// The whole name of a tensor: the prefix set before a pattern, and the layer into it.
std::string tensor_name(const TensorNames& names, const std::string& pattern, int32_t layer);

// Calls visit(linear) for every linear map that there is, head included.
template <typename Visit>
void for_each_map(const LayerWeights& layer, Visit visit) {
  for (const LayerMapSlot& slot : kLayerMapSlots) {
    if (layer.*slot.weights != nullptr) visit(*(layer.*slot.weights));
  }
}
template <typename Visit>
void for_each_map(const HeadWeights& head, Visit visit) {
  for (const HeadMapSlot& slot : kHeadMapSlots) {
    if (head.*slot.weights != nullptr) visit(*(head.*slot.weights));
  }
}
template <typename Visit>
void for_each_map(const Weights& weights, Visit visit) {
  for (const LayerWeights& layer : weights.layers) for_each_map(layer, visit);
  for_each_map(weights.head, visit);
}

// The same for norms and tables; those that the model does not have are empty.
template <typename Visit>
void for_each_norm(const Weights& weights, Visit visit) {
  for (const ModelNormSlot& slot : kModelNormSlots) visit(weights.*slot.weights);
  for (const LayerWeights& layer : weights.layers) {
    for (const LayerNormSlot& slot : kLayerNormSlots) visit(layer.*slot.weights);
  }
  visit(weights.head.norm);
}
template <typename Visit>
void for_each_table(const Weights& weights, Visit visit) {
  for (const TableSlot& slot : kTableSlots) visit(weights.*slot.weights);
}

}  // namespace tessera
