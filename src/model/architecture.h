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

enum class Ffn { kPlain, kGated };  // f(W_in x)  or  f(W_gate x) * (W_up x)
// Queries and keys are normalised by each head alone, or by all heads of a row together.
enum class QkNorm { kNone, kPerHead, kWholeWidth };
// kSequential: x <- x + attention(x), then x <- x + ffn(x).  kParallel: x <- x + attention(x) +
// ffn(x), where a layer without an FFN norm reads what its attention reads.
enum class Residual { kSequential, kParallel };
enum class CrossAttention { kNone, kAfterAttention };

// What is added to scaled scores. kAlibi: a slope of the head times the distance (Press et al.
// 2021). kBucketed: a learned value for head and bucket of the distance (Raffel et al. 2020).
// kDisentangled: products with embeddings of the distance (He et al. 2020).
enum class ScoreBias { kNone, kAlibi, kBucketed, kDisentangled };

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

// A block f, attention or FFN, adds to the rows that reach it, with each norm or without:
//   x <- sum_norm(x + output_norm(f(norm(x))))
struct LayerNames {
  LinearNames qkv;
  LinearNames attention_output;
  LinearNames ffn_in;  // gate then up for a gated FFN
  LinearNames ffn_out;
  NormNames attention_norm;
  NormNames attention_output_norm;
  NormNames attention_sum_norm;
  NormNames ffn_norm;
  NormNames ffn_output_norm;
  NormNames ffn_sum_norm;
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
  // Names of heads never have it, nor do names that start with '/'; empty where the checkpoint was
  // saved without it, as base models are: "bert.embeddings..." and "embeddings...".
  std::string prefix;
  std::string token_embedding;
  std::string position_embedding;  // empty: positions are not learned
  std::string type_embedding;
  LinearNames embedding_projection;  // from embedding_size to hidden_size
  NormNames embedding_norm;
  NormNames final_norm;
  HeadNames head;
};

// The frequencies of sequences that are longer than usual: a list of their own (LongRoPE, Ding et
// al. 2024) or, where it is empty, those of a base that grows with the length L (dynamic NTK):
//   (theta * (factor * L / usual_tokens - (factor - 1))^(d / (d - 2)))^(-2j / d)
struct LongerSequences {
  int32_t usual_tokens = 0;  // 0: sequences of any length have the same frequencies
  std::vector<float> inverse_frequencies;
  double theta = 0;
  double factor = 1;
  int32_t rotated = 0;  // d
};

// Rotary positions (Su et al. 2021). The angle of pair j at position p is p *
// inverse_frequencies[j], in f32 as transformers has it; elements behind the pairs stay as they
// are.
struct Rotary {
  std::vector<float> inverse_frequencies;
  float scale = 1;  // of cosines and sines
  LongerSequences longer = {};
  std::string description = "rotary";  // for people

  int32_t rotated() const { return static_cast<int32_t>(2 * inverse_frequencies.size()); }
};
constexpr int32_t kNoRotary = -1;

// What one layer computes.
struct LayerRecord {
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_size = 0;
  float score_scale = 0;  // 0: 1 / sqrt(head_size)
  float score_cap = 0;    // > 0: a score s becomes cap * tanh(s / cap)
  int32_t window = 0;     // 0: unlimited
  ScoreBias score_bias = ScoreBias::kNone;
  int32_t rotary = kNoRotary;  // which of the architecture's
  QkNorm qk_norm = QkNorm::kNone;
  CrossAttention cross_attention = CrossAttention::kNone;

  int32_t ffn_size = 0;
  Ffn ffn = Ffn::kGated;
  Activation activation = Activation::kSilu;

  Residual residual = Residual::kSequential;
  float residual_scale = 1;  // of what a block adds
  LayerNames names;

  int32_t query_width() const { return query_heads * head_size; }
  int32_t kv_width() const { return kv_heads * head_size; }
  // The width of the rows between the two maps of the FFN.
  int64_t ffn_width() const { return int64_t{ffn_size} * (ffn == Ffn::kGated ? 2 : 1); }
};

// The values of a layer as its weights were prepared (model/fold.h).
struct ValueHeads {
  HeadOutputs outputs = HeadOutputs::kConcatenated;
  int32_t heads = 0;
  int32_t size = 0;  // of each
};

// One transformer as data, all that its configuration says: what its layers share and a record for
// each. What was loaded or planned is not here.
struct Architecture {
  std::string family;
  std::string class_name;
  Head head = Head::kNone;
  int32_t hidden_size = 0;
  int32_t embedding_size = 0;  // width of the embedding tables; 0: hidden_size
  int32_t vocabulary_size = 0;
  int32_t type_vocabulary_size = 0;
  int32_t max_positions = 0;
  int32_t labels = 0;

  norm::Kind norm_kind = norm::Kind::kRms;
  float norm_eps = 1e-5f;
  float norm_weight_offset = 0;  // added to every norm's weights: 1 where w - 1 is stored

  float embedding_scale = 1;  // of a token's row, before others are added
  // Learned positions: row of position 0. With a padding id >= 0 ids equal to it stand at row
  // padding_id and do not advance the count (RoBERTa).
  int32_t position_offset = 0;
  int32_t position_padding_id = -1;
  std::vector<Rotary> rotaries;

  Mask mask = Mask::kCausal;
  std::vector<LayerRecord> layers;

  float logit_scale = 1;  // of a causal language model's logits
  float logit_cap = 0;    // > 0: a logit l, scaled, becomes cap * tanh(l / cap)
  std::vector<int32_t> end_ids;
  // A head that reads the last token passes over ids equal to this at the end of a sequence; -1:
  // none.
  int32_t head_padding_id = -1;
  std::vector<std::string> label_names;  // of classification heads; empty: the file names none
  LabelScores label_scores = LabelScores::kSoftmax;
  LabelScores relevance_scores = LabelScores::kSigmoid;

  TensorNames names;

  bool is_decoder() const { return mask == Mask::kCausal; }
  int32_t layer_count() const { return static_cast<int32_t>(layers.size()); }
  const LayerRecord& layer(int32_t number) const { return layers[static_cast<size_t>(number)]; }
  int32_t embedding_width() const { return embedding_size > 0 ? embedding_size : hidden_size; }
  // The shape of a layer whose values stay as the checkpoint has them.
  AttentionShape attention_shape_as_stored(int32_t layer) const;
};

AttentionShape attention_shape(const LayerRecord& layer, Mask mask, const ValueHeads& values,
                               DType cache);

// kUnsupported, with what was found, where the record asks for what execution does not have.
Status check(const Architecture& architecture, const std::string& source);

// Reads config.json (and generation_config.json) into an Architecture; the family is chosen by
// model_type.
Result<Architecture> read_architecture(const Checkpoint& checkpoint);
// The same of a config.json whose tensors are not there yet: names are as those of classes with a
// head, and no class means no head.
Result<Architecture> read_architecture(const Config& config);

// What transformers calls the config's family with this head.
Result<std::string> class_with_head(const Config& config, Head head);

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
