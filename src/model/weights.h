#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "attention/method.h"
#include "linear/linear.h"
#include "model/embedding_table.h"

namespace tessera {

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
  NormWeights attention_output_norm;
  NormWeights attention_sum_norm;
  NormWeights ffn_norm;
  NormWeights ffn_output_norm;
  NormWeights ffn_sum_norm;
  NormWeights query_norm;
  NormWeights key_norm;
  // As the values were prepared and the cache keeps them; qkv gives rows of queries, keys, values.
  AttentionShape attention;
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

  const AttentionShape& attention_shape(int32_t layer) const {
    return layers[static_cast<size_t>(layer)].attention;
  }
  // The width of what a layer's projection gives: queries, keys and values.
  int64_t qkv_width(int32_t layer) const { return attention_shape(layer).qkv_width(); }
  // A page that serves every layer.
  PageShape largest_page() const;

  int64_t bytes() const;
  // The FLOPs of the linear maps, head included: as they would be dense, and as they are executed.
  int64_t flops_per_token() const;
  int64_t executed_flops_per_token() const;
};

}  // namespace tessera
