#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/status.h"
#include "base/team.h"
#include "formats/stored_matrix.h"
#include "linear/linear.h"
#include "model/architecture.h"
#include "plan/precompute_vo.h"

namespace tessera {

// One layer's attention as a checkpoint holds it: a stack of queries, keys and values, which may be
// cut in any way, and the output matrix. Biases: of all outputs, or empty.
struct StoredAttention {
  MatrixStack qkv;
  std::vector<float> qkv_bias;
  MatrixStack output;
  std::vector<float> output_bias;
};

// What the layer runs, with the row of qkv being queries, keys and then `values`, and attention's
// output the input of `output`.
struct PreparedAttention {
  std::unique_ptr<Linear> qkv;
  std::unique_ptr<Linear> output;
  ValueHeads values;
  VoChoice vo;
};

// Where what biases of values add is added: b_V with the values, so that it leaves with its head,
// or as W_O b_V with the output, as far as it can, where it costs nothing.
enum class ValueBias { kWithOutput, kWithValues };

struct AttentionRequest {
  const Architecture* architecture = nullptr;
  int32_t layer = 0;
  VoMethod vo = VoMethod::kAuto;
  int32_t expected_tokens = 128;
  ValueBias value_bias = ValueBias::kWithOutput;
  Precision weights = Precision::kF32;
  Team* team = nullptr;
  // Packs a stack in the layer's weight type.
  std::function<Result<std::unique_ptr<Linear>>(const MatrixStack&, const std::vector<float>&)>
      prepare;
};

// Prepares a layer's projection and output in one of three forms, all exact but for rounding:
//   as stored;
//   compact values: V keeps equally many whole outputs of each KV head, and the output matrix is
//     dense or compact over the same, so that attention and the cache have only these. What the
//     bias of a value that goes adds, W_O b_V as probabilities sum to 1, goes to the output's;
//   pre-computed V·O: M_h = W_O,h W_V,g (y = W x) of H x features outputs takes the place of V,
//     heads are summed by attention, and the output adds b_O + sum_h W_O,h b_V,g and the residual,
//     at the features that a compact W_O keeps; the others have b_O. Products are summed in f32:
//     within (head size / 2 + 8) eps sum |W_O W_V| of exact, and then rounded to the layer's type.
// With ValueBias::kWithValues compact values of a layer with biases stay as stored, and M_h has the
// bias W_O,h b_V,g.
// The probabilities of a query sum to 1 because it sees itself.
Result<PreparedAttention> prepare_attention(const StoredAttention& stored,
                                            const AttentionRequest& request);

}  // namespace tessera
