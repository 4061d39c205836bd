#pragma once

#include <memory>
#include <vector>

#include "base/status.h"
#include "base/team.h"
#include "compress/matrix.h"
#include "model/weights.h"

namespace tessera {

// One layer's matrices, in the order of the items, on their way through the pipeline, and the maps
// that run them.
struct LayerOnTheWay {
  std::vector<Matrix> matrices;
  LayerWeights weights;  // maps null until they are prepared

  std::vector<Matrix*> of(LayerMap map);
  // Maps with matrices that wait for another map.
  std::vector<LayerMap> waiting() const;
};

// Reads the items of a layer. Maps are not prepared.
Result<LayerOnTheWay> read_layer(const Sources& sources, const std::vector<Item>& items,
                                 int32_t layer);
// Prepares one map, or all, from what is left of the matrices, dense in f32.
Status prepare_map(LayerMap map, LayerOnTheWay& layer, Team& team);
Status prepare_maps(LayerOnTheWay& layer, Team& team);

}  // namespace tessera
