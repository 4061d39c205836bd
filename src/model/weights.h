#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/device.h"
#include "base/status.h"
#include "base/team.h"
#include "formats/packed.h"
#include "io/checkpoint.h"
#include "linear/linear.h"
#include "model/architecture.h"
#include "plan/plan.h"

namespace tessera {

// A table of rows, kept in the checkpoint's dtype, or as integers, which the checkpoint has or kW8
// makes, and widened as it is read.
struct EmbeddingTable {
  Buffer data;           // empty where it is of integers
  PackedMatrix rounded;  // then that
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t width = 0;

  bool empty() const { return rows == 0; }
  int64_t bytes() const;
  // target[0 .. width) = row, or += row.
  void copy_row(int64_t row, float* target) const;
  void add_row(int64_t row, float* target) const;

 private:
  void read(int64_t row, Range columns, float* target) const;
};

// Weight and bias of a normalisation, f32; empty where the architecture has none.
struct NormWeights {
  std::vector<float> weight;
  std::vector<float> bias;
  bool empty() const { return weight.empty(); }
};

struct LayerWeights {
  std::unique_ptr<Linear> qkv;
  std::unique_ptr<Linear> attention_output;
  std::unique_ptr<Linear> ffn_in;
  std::unique_ptr<Linear> ffn_out;
  NormWeights attention_norm;
  NormWeights ffn_norm;
  NormWeights query_norm;
  NormWeights key_norm;
};

struct HeadWeights {
  std::unique_ptr<Linear> transform;
  NormWeights norm;
  std::unique_ptr<Linear> output;  // null when the model ends with its hidden states
  int64_t outputs = 0;
};

// A model's weights, prepared for execution.
struct Weights {
  EmbeddingTable tokens;
  EmbeddingTable positions;
  EmbeddingTable types;
  NormWeights embedding_norm;
  std::vector<LayerWeights> layers;
  NormWeights final_norm;
  HeadWeights head;

  int64_t bytes() const;
  // Of the linear maps, head included: as they would be dense, and as they are executed.
  int64_t flops_per_token() const;
  int64_t executed_flops_per_token() const;
};

struct LoadedWeights {
  Weights weights;
  int64_t parameters = 0;
  // Per layer, as chosen when the weights were known: for Architecture::values and LayerPlan::vo.
  std::vector<ValueHeads> values;
  std::vector<VoChoice> vo;
};

// Reads every tensor that the architecture names, checks its shape, prepares it as the plan says,
// and gives the source's pages back as it goes, so that memory peaks near the prepared size.
Result<LoadedWeights> load_weights(const Checkpoint& checkpoint, const Architecture& architecture,
                                   const Plan& plan, Team& team);

// One layer's norms alone; its maps stay null.
Result<LayerWeights> load_layer_norms(const Checkpoint& checkpoint,
                                      const Architecture& architecture, int32_t layer, Team& team);

// The architecture's names as this checkpoint has them: base models are saved without the family's
// prefix.
TensorNames checkpoint_names(const Checkpoint& checkpoint, const Architecture& architecture);
// The whole name of a tensor.
std::string tensor_name(const TensorNames& names, const std::string& pattern, int32_t layer);

}  // namespace tessera
