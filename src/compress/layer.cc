#include "compress/layer.h"

#include <algorithm>

namespace tessera {

std::vector<Matrix*> LayerOnTheWay::of(LayerMap map) {
  std::vector<Matrix*> found;
  for (Matrix& matrix : matrices) {
    if (matrix.item.map == map) found.push_back(&matrix);
  }
  return found;
}

std::vector<LayerMap> LayerOnTheWay::waiting() const {
  std::vector<LayerMap> found;
  for (const Matrix& matrix : matrices) {
    const LayerMap map = matrix.item.map;
    if (matrix.waits && std::find(found.begin(), found.end(), map) == found.end())
      found.push_back(map);
  }
  return found;
}

Result<LayerOnTheWay> read_layer(const Sources& sources, const std::vector<Item>& items,
                                 int32_t layer) {
  LayerOnTheWay read;
  for (const Item& item : items) {
    if (item.layer != layer) continue;
    TESSERA_ASSIGN_OR_RETURN(Matrix matrix, read_item(sources, item));
    read.matrices.push_back(std::move(matrix));
  }
  return read;
}

Status prepare_map(LayerMap map, LayerOnTheWay& layer, Team& team) {
  DenseStack stack;
  std::vector<float> bias;
  for (const Matrix* matrix : layer.of(map)) {
    stack.push_back(
        {matrix->pruned.values.data(), DType::kF32, matrix->pruned.outputs, matrix->pruned.inputs});
    bias.insert(bias.end(), matrix->bias.begin(), matrix->bias.end());
  }
  TESSERA_ASSIGN_OR_RETURN(auto prepared, prepare_dense(stack, bias.empty() ? nullptr : bias.data(),
                                                        Precision::kF32, team));
  layer.weights.*slot_of(map).weights = std::move(prepared);
  return {};
}

Status prepare_maps(LayerOnTheWay& layer, Team& team) {
  for (int map = 0; map < kLayerMaps; ++map)
    TESSERA_RETURN_IF_ERROR(prepare_map(static_cast<LayerMap>(map), layer, team));
  return {};
}

}  // namespace tessera
