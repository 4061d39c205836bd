#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "attention/method.h"
#include "base/status.h"
#include "formats/dense.h"
#include "io/checkpoint.h"
#include "kernels/activation/activation.h"
#include "kernels/norm/norm.h"
#include "tessera/model.h"

namespace tessera {

struct TokenSequence;

// Where a block normalises: kPre  x + f(norm(x)),  kPost  norm(x + f(x)).
enum class NormPlacement { kPre, kPost };
enum class Ffn { kPlain, kGated };  // f(W_in x)  or  f(W_gate x) * (W_up x)
enum class PositionKind { kLearned, kRotary };
enum class QkNorm { kNone, kPerHead };

// Which row of a sequence a head reads.
enum class HeadReads { kEveryToken, kFirstToken, kLastToken };

// Names of a linear map's tensors. Several weights are stacked by outputs; "{}" stands for the
// layer. No names: the map is absent.
struct LinearNames {
  std::vector<std::string> weights;
  std::vector<std::string> biases;
  MatrixOrder order = MatrixOrder::kOutputRows;
};
struct NormNames {
  std::string weight;
  std::string bias;
};

struct LayerNames {
  LinearNames qkv;
  LinearNames attention_output;
  LinearNames ffn_in;  // gate then up for a gated FFN
  LinearNames ffn_out;
  NormNames attention_norm;
  NormNames ffn_norm;
  NormNames query_norm;
  NormNames key_norm;
};

// Whether a head's output has a weight of its own or, where the checkpoint holds none, shares the
// token embedding.
enum class Tying { kOwn, kTokenEmbedding };

// What follows the last layer: y = output(x), or output(norm(activation(transform(x)))) with the
// norm optional.
struct HeadNames {
  HeadReads reads = HeadReads::kEveryToken;
  LinearNames transform;
  Activation activation = Activation::kNone;
  NormNames norm;
  LinearNames output;
  Tying tying = Tying::kOwn;
  std::string shared_bias;  // of a tied output; empty: none
};

struct TensorNames {
  // Base models of a family leave this out: "bert.embeddings..." and "embeddings...". Names of
  // heads never have it, nor do names that start with '/'.
  std::string prefix;
  std::string token_embedding;
  std::string position_embedding;
  std::string type_embedding;
  NormNames embedding_norm;
  NormNames final_norm;
  LayerNames layer;
  HeadNames head;
};

// The values of a layer as its weights were prepared.
struct ValueHeads {
  HeadOutputs outputs = HeadOutputs::kConcatenated;
  int32_t heads = 0;
  int32_t size = 0;  // of each
};

// One transformer as data: everything that execution needs to know but the weights.
struct Architecture {
  std::string family;
  std::string class_name;
  Head head = Head::kNone;
  int32_t layers = 0;
  int32_t hidden_size = 0;
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_size = 0;
  int32_t ffn_size = 0;
  int32_t vocabulary_size = 0;
  int32_t type_vocabulary_size = 0;
  int32_t max_positions = 0;
  int32_t labels = 0;

  NormPlacement norm_placement = NormPlacement::kPre;
  norm::Kind norm_kind = norm::Kind::kRms;
  float norm_eps = 1e-5f;
  QkNorm qk_norm = QkNorm::kNone;
  Ffn ffn = Ffn::kGated;
  Activation activation = Activation::kSilu;

  PositionKind positions = PositionKind::kRotary;
  // Learned: row of position 0. With a padding id >= 0 ids equal to it stand at row padding_id and
  // do not advance the count (RoBERTa).
  int32_t position_offset = 0;
  int32_t position_padding_id = -1;
  // Rotary: angle of pair j at position p is p * inverse_frequencies[j], in f32 as transformers has
  // it.
  std::vector<float> inverse_frequencies;

  Mask mask = Mask::kCausal;
  float score_scale = 1;
  std::vector<int32_t> windows;  // per layer, 0 = unlimited
  // Per layer, of loaded weights whose values are compact or pre-computed; empty: kv_heads of
  // head_size in every layer.
  std::vector<ValueHeads> values;
  DType cache = DType::kF32;  // of keys and values, as the plan has it
  std::vector<int32_t> end_ids;
  // A head that reads the last token passes over ids equal to this at the end of a sequence; -1:
  // none.
  int32_t head_padding_id = -1;
  std::vector<std::string> label_names;  // of classification heads; empty: the file names none
  LabelScores label_scores = LabelScores::kSoftmax;
  LabelScores relevance_scores = LabelScores::kSigmoid;

  TensorNames names;

  bool is_decoder() const { return mask == Mask::kCausal; }
  int32_t query_width() const { return query_heads * head_size; }
  int32_t kv_width() const { return kv_heads * head_size; }
  ValueHeads value_heads(int32_t layer) const;
  // Of what a layer's projection gives: queries, keys and values.
  int64_t qkv_width(int32_t layer) const;
  AttentionShape attention_shape(int32_t layer) const;
  // A page that serves every layer.
  PageShape largest_page() const;
};

// Reads config.json (and generation_config.json) into an Architecture; the family is chosen by
// model_type.
Result<Architecture> read_architecture(const Checkpoint& checkpoint);

// Checks a sequence against vocabulary, type vocabulary and context; `name` stands for it in the
// message. tokenizer_tokens: 0 where there is no tokenizer. Tokenizers with a few added tokens
// beyond the embedding exist and serve every text without these, so a model with one loads; one of
// another model is found out here too.
Status check_sequence(const Architecture& architecture, const TokenSequence& sequence,
                      const std::string& name, int32_t tokenizer_tokens = 0);

// One model_type. `read` fills what the family defines; read_architecture has set class_name, head
// and labels.
struct Family {
  std::string_view model_type;
  Status (*read)(const Config& config, Architecture& architecture);
};

}  // namespace tessera
