#pragma once

#include <torch/types.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "compress/directory.h"
#include "compress/matrix.h"
#include "formats/tile_mask.h"
#include "model/architecture.h"
#include "model/slots.h"
#include "tessera/tune.h"

namespace tessera::training {

struct Parameter;

// What is trained in place of a matrix W [outputs, inputs], which then is W + scale B A where its
// mask keeps it (Hu et al. 2021).
struct LowRankUpdate {
  Parameter* down = nullptr;  // A [rank, inputs], which the parts of a tensor share
  Parameter* up = nullptr;    // B [outputs, rank]
  float scale = 0;
};

// A tensor of the model on its way through training, in f32. Matrices are W [outputs, inputs] of
// y = W x + b, whatever order the file has them in.
struct Parameter {
  enum class Kind { kMatrix, kBias, kNorm, kTable };

  // Of the tensor; of a part of one that holds several, as compress names parts. Unique.
  std::string name;
  Kind kind = Kind::kMatrix;
  torch::Tensor value;           // a leaf; requires a gradient where it is trained
  std::optional<TileMask> mask;  // of a pruned matrix; what it does not keep is 0 and stays 0
  // Of integers in the source: their scales, which stay. Products use the value as they round it
  // (tune/torch/rounded.h).
  std::optional<SourceRounding> rounding = {};
  std::optional<LowRankUpdate> update = {};

  bool is_trained() const { return value.requires_grad(); }
};

// The tensors of a linear map: of matrices that are stacked by outputs, one or several. Biases are
// as many, or none; null: the matrix has none.
struct TrainedMap {
  std::vector<Parameter*> weights;
  std::vector<Parameter*> biases;
  bool empty() const { return weights.empty(); }
};
struct TrainedNorm {
  Parameter* weight = nullptr;  // without the architecture's norm_weight_offset
  Parameter* bias = nullptr;
  bool empty() const { return weight == nullptr; }
};
struct TrainedLayer {
  TrainedMap maps[kLayerMaps];     // in the order of kLayerMapSlots
  TrainedNorm norms[kLayerNorms];  // in the order of kLayerNormSlots
};

// A whole model, as the slots of model/slots.h name its tensors. A tied head's output is the token
// embedding itself.
struct TrainedModel {
  Architecture architecture;
  std::deque<Parameter> parameters;  // each tensor once, in the order in which they are read
  std::deque<Parameter> updates;     // A and B of low-rank updates
  Parameter* tables[3] = {};         // kTableSlots; null: absent
  TrainedNorm norms[2];              // kModelNormSlots
  std::vector<TrainedLayer> layers;
  TrainedMap head_maps[2];  // kHeadMapSlots
  TrainedNorm head_norm;

  // The matrices of layers as they were read, which say in what form they are written back, and
  // what belongs to each.
  struct Stored {
    Matrix matrix;  // without values
    Parameter* weight = nullptr;
    Parameter* bias = nullptr;
  };
  std::vector<Stored> matrices;

  std::vector<Parameter*> trained();
  Parameter* find(const std::string& name);  // null: there is none
  int64_t weights() const;                   // numbers in all parameters but updates
};

// The tensors that require a gradient.
std::vector<torch::Tensor> trained_values(const TrainedModel& model);

// A tensor's numbers in their order.
std::vector<float> values_of(const torch::Tensor& tensor);

// Reads every tensor that the architecture names. Nothing requires a gradient yet. Queries, keys
// and values in one tensor are one parameter or, as those that the source has apart, three.
Result<TrainedModel> read_model(const OpenCheckpoint& source, FusedQkv fused = FusedQkv::kWhole);

// Marks what the options train, and gives matrices their updates. kInvalidInput where that is
// nothing.
Status choose_trained(const TuneOptions& options, TrainedModel& model);

// Writes the model as a checkpoint into `directory`: trained tensors anew, in the types and formats
// of the source, and all others as the source has them. Layers are put together in `part` first.
// section: of config.json, JSON without "tensors"; empty: there is none.
Status write_model(const OpenCheckpoint& source, TrainedModel& model, const std::string& section,
                   const PartDirectory& part, const std::string& directory);

}  // namespace tessera::training
