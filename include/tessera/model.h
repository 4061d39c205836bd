#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/export.h"
#include "tessera/names.h"
#include "tessera/status.h"

// Loading a checkpoint, asking what it is, and running it on token ids.
namespace tessera {

class Tokenizer;       // tessera/tokenizer.h
struct PruningRecord;  // tessera/pruning.h
struct ModelState;     // the library's own

// What a model's last layer feeds.
enum class Head {
  kNone,                    // hidden states only
  kCausalLm,                // logits [tokens, vocabulary]
  kMaskedLm,                // logits [tokens, vocabulary]
  kSequenceClassification,  // logits [labels]
  kTokenClassification,     // logits [tokens, labels]
  kQuestionAnswering,       // start and end logits [tokens]
};
constexpr auto names_of(Head) {
  return enum_names("none", "causal_lm", "masked_lm", "sequence_classification",
                    "token_classification", "question_answering");
}

// What makes scores of a classification head's logits: softmax (one label holds), sigmoid (each
// label for itself), their tanh, or the logits as they are (a regression).
enum class LabelScores { kSoftmax, kSigmoid, kTanh, kLogits };
constexpr auto names_of(LabelScores) { return enum_names("softmax", "sigmoid", "tanh", "logits"); }

// How the states of a text's tokens become one vector, as sentence-transformers calls it: "cls",
// "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken".
enum class Pooling { kFirstToken, kMax, kMean, kMeanSqrtLength, kWeightedMean, kLastToken };
constexpr auto names_of(Pooling) {
  return enum_names("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken");
}

// How two embeddings are compared: by cosine, dot product, or the negative of the Euclidean or
// Manhattan distance.
enum class Similarity { kCosine, kDot, kEuclidean, kManhattan };
constexpr auto names_of(Similarity) {
  return enum_names("cosine", "dot", "euclidean", "manhattan");
}

// A text to be put before another one, by what it is for ("query", "document").
struct Prompt {
  std::string name = {};
  std::string text = {};
};

// In which numbers weights are kept and multiplied. Sums are f32 or wider, or whole integers.
enum class WeightType {
  kAuto,  // as the checkpoint has them, f16 as f32
  kF32,
  kBF16,  // also rows, where the CPU multiplies bf16 faster than f32
  kInt8,  // weights of 8 bits with a scale an output, rows of 8 bits with a scale each
  kInt4,  // weights of 4 bits in groups, rows as for kInt8
  kW8,    // weights of 8 bits in groups of inputs with a scale each; rows of 16 bits
  kW4,    // weights of 4 bits in groups, rows as for kW8
};
constexpr auto names_of(WeightType) {
  return enum_names("auto", "f32", "bf16", "int8", "int4", "w8", "w4");
}

// In which numbers a decoder keeps the keys and values of the tokens that it has read. Sums are
// f32.
enum class CacheType {
  kF32,
  kBF16,
  kInt8,  // with a scale a token and head
};
constexpr auto names_of(CacheType) { return enum_names("f32", "bf16", "int8"); }

// Whether the value and output matrices of attention are multiplied beforehand (E.T.), which is
// faster where few output features are kept. kAuto: where the plan finds it faster and exact, see
// docs/decisions/plan.md.
enum class PrecomputeVo { kAuto, kOn, kOff };
constexpr auto names_of(PrecomputeVo) { return enum_names("auto", "on", "off"); }

struct LoadOptions {
  int threads = 0;  // < 1: every CPU this process may use, which is the most
  WeightType weights = WeightType::kAuto;
  PrecomputeVo precompute_vo = PrecomputeVo::kAuto;
  // The type of a decoder's keys and values, with which perplexity and other forward passes are
  // computed too; f32 where nothing is given.
  std::optional<CacheType> cache = {};
  // The tokens of a usual sequence, for the plan's choices that depend on them.
  int32_t expected_tokens = 128;
  // A plan to force, as Model::plan_json gives it; empty: choose. It names the weight type, the
  // cache and whether to pre-compute V·O too.
  std::string plan_file = {};
  // Cascade pruning: the JSON of a schedule of what leaves on the way through the layers and, where
  // a text is generated, through its steps (docs/cascade.md), as {"tokens": 0.5}, or the name of a
  // published one (tessera/pruning.h). Empty: the schedule that is saved with the model, if one is;
  // "none": none.
  std::string pruning = {};
  // The schedule of a model that none is saved with, where `pruning` is empty; empty: none.
  std::string usual_pruning = {};
  // Told behind each layer of each sequence which tokens it had, by one thread at a time while the
  // model runs, on whichever thread that is. It must not throw or call the model. Empty: nothing is
  // found out for it.
  std::function<void(const PruningRecord&)> on_pruning = {};
};

// What generation_config.json recommends, as it stands there; empty where it says nothing. The
// library itself uses none of it: a Request says what it wants (tessera/engine.h explains what each
// does).
struct GenerationDefaults {
  // A value that cannot be followed, and why: "generation_config.json: top_p: expected ...". It
  // does not matter to whoever does not use it.
  struct Wrong {
    std::string key = {};
    std::string message = {};
  };
  std::optional<bool> do_sample = {};
  std::optional<float> temperature = {}, top_p = {}, min_p = {}, repetition_penalty = {};
  std::optional<int32_t> top_k = {}, max_new_tokens = {};
  std::optional<int32_t> max_length = {};  // of prompt and output, where max_new_tokens is absent
  std::optional<int32_t> min_new_tokens = {};
  std::optional<int32_t> min_length = {};  // likewise, for min_new_tokens
  std::optional<int32_t> num_beams = {};
  std::optional<float> length_penalty = {};
  std::optional<std::string> early_stopping = {};  // "false", "true" or "never"
  std::optional<int32_t> no_repeat_ngram_size = {};
  std::vector<int32_t> suppress_tokens = {}, begin_suppress_tokens = {};
  std::vector<std::vector<int32_t>> bad_words_ids = {};
  std::optional<int32_t> forced_bos_token_id = {};
  std::vector<int32_t> forced_eos_token_id = {};
  std::vector<Wrong> wrong = {};
  // Keys that change what transformers generates and that Tessera does not follow.
  std::vector<std::string> not_followed = {};
};

// A loaded model in numbers. Sizes are what config.json says, whatever it calls them.
struct ModelInfo {
  std::string directory = {};     // where load found the model
  std::string family = {};        // "bert", "llama", ...
  std::string architecture = {};  // class name in config.json, may be empty
  Head head = Head::kNone;
  int32_t layers = 0;
  int32_t hidden_size = 0;
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_size = 0;
  int32_t ffn_size = 0;
  int32_t vocabulary_size = 0;
  int32_t max_positions = 0;   // the longest sequence the model can take, in tokens
  std::string positions = {};  // "learned", or the kind of rotary positions with its numbers
  int32_t type_vocabulary_size = 0;
  int64_t parameters = 0;
  int64_t checkpoint_bytes = 0;          // of the safetensors files
  int64_t prepared_bytes = 0;            // weights in memory
  int64_t flops_per_token = 0;           // of the linear maps, head included, as if dense
  int64_t executed_flops_per_token = 0;  // of them as they are prepared
  int64_t cache_bytes_per_token = 0;     // keys and values of all layers
  std::string weight_type = {};          // "f32", "bf16", "int8", "int4", "w8", "w4" or
                                         // "stored": as each matrix is in the checkpoint
  CacheType cache_type = CacheType::kF32;
  std::vector<std::string> labels = {};  // of classification heads
  // As config.json's problem_type says; else sigmoid for one label and softmax for several, as
  // transformers does.
  LabelScores label_scores = LabelScores::kSoftmax;
  // What becomes of a cross-encoder's only logit: what the activation does that
  // config_sentence_transformers.json or config.json names, else its sigmoid is taken.
  LabelScores relevance_scores = LabelScores::kSigmoid;
  int threads = 0;  // of the team that runs it
  // The schedule of cascade pruning in force, as JSON; empty: none.
  std::string pruning = {};
  GenerationDefaults generation = {};
  bool has_tokenizer = false;
  bool is_decoder = false;  // a token sees those before it only; else an encoder
  // A sentence-transformers directory: embed() pools and normalises as it says.
  bool is_sentence_encoder = false;
  // What a sentence-transformers directory says: its prompts, the one that texts get unless another
  // is chosen (may be empty), and how its embeddings are compared.
  std::vector<Prompt> prompts = {};
  std::string default_prompt = {};
  Similarity similarity = Similarity::kCosine;
  // The longest text, in tokens, that is not cut: max_positions, or less where the files of the
  // tokenizer or of sentence-transformers say so.
  int32_t max_text_tokens = 0;
};

// Token ids of one sequence; type_ids empty means all 0.
struct TokenSequence {
  std::vector<int32_t> ids = {};
  std::vector<int32_t> type_ids = {};
};

struct ForwardOptions {
  bool hidden_states = false;  // fill ForwardResult::hidden_states
};

// Results for the rows of all sequences one after another, a row a token; row r of sequence s is
// offsets[s] + r. Tensors are row-major, f32. What the model's head does not give stays empty.
struct ForwardResult {
  std::vector<int32_t> offsets = {};  // [sequences + 1]
  // kCausalLm, kMaskedLm, kTokenClassification: [rows, width]; kSequenceClassification: [sequences,
  // width].
  std::vector<float> logits = {};
  int32_t logits_width = 0;
  std::vector<float> start_logits = {}, end_logits = {};  // kQuestionAnswering: [rows]
  // hidden_states[0] leaves the embeddings, [i] layer i; a decoder's last one is after the final
  // norm. Each [rows, hidden_size].
  std::vector<std::vector<float>> hidden_states = {};
};

// What one kind of operation did: time, arithmetic as executed and as the dense form would need,
// and the bytes that it reads and writes at least, wherever they lie.
struct OperationProfile {
  std::string operation = {};  // "qkv", "attention", "norm", ...
  int64_t calls = 0;
  double seconds = 0;
  double flops = 0;
  double dense_flops = 0;
  double bytes = 0;
};

// What the generated tokens read of the cache, over all layers and query heads. Numbers and bits
// are counted as if every query head had keys and values of its own; bytes are those really read,
// which the query heads of a group share.
struct CacheReadProfile {
  int64_t tokens = 0;
  int64_t queries = 0;    // one for each token, layer and query head that is alive there
  int64_t refetched = 0;  // of these: that read the lower plane of the keys too
  int64_t key_numbers = 0;
  int64_t key_bits = 0;
  int64_t value_numbers = 0;
  int64_t value_bits = 0;
  int64_t bytes = 0;
};

// A checkpoint prepared for execution, with threads of its own. Callers of its functions and
// Engines on it, on several threads, take turns; models do not disturb each other. Weights, logits
// or vectors that are NaN or infinite are kInvalidInput.
class TESSERA_API Model {
 public:
  // Reads a Hugging Face directory: config.json, safetensors (one file or shards) and, where there
  // is one, the tokenizer. Its files are not needed any more when it returns. kNotFound: a file is
  // missing; kInvalidInput: one is wrong; kUnsupported: a model_type or an option of config.json
  // that Tessera cannot run.
  // The environment variables TESSERA_ISA (ref, avx2, avx512, ...) and TESSERA_KERNEL
  // (family:row) restrict the kernels, see kernels_json.
  static Result<std::shared_ptr<Model>> load(const std::string& directory,
                                             const LoadOptions& options = {});
  ~Model();

  const ModelInfo& info() const;

  // Text to ids with the model's special tokens, and ids to text without them. kNotFound when the
  // directory has no tokenizer. tokenizer() itself can do more: pairs, truncation, origins.
  Result<TokenSequence> tokenize(const std::string& text) const;
  Result<std::string> detokenize(const std::vector<int32_t>& ids) const;
  std::shared_ptr<const Tokenizer> tokenizer() const;  // null when the directory has none

  // Runs whole sequences, of any lengths, together and without a cache; an empty batch gives an
  // empty result. Ids outside the vocabulary, empty sequences and sequences longer than
  // ModelInfo::max_positions are kInvalidInput. A sequence's results depend on the others only by
  // rounding.
  Result<ForwardResult> forward(const std::vector<TokenSequence>& batch,
                                const ForwardOptions& options = {});

  // One vector of embedding_size() floats a sequence, one after the other, pooled (and normalised)
  // as a sentence-transformers directory says, else the mean over the tokens, normalised. Sequences
  // longer than the encoder's limit are cut to it, as sentence-transformers does; truncated, if not
  // null, becomes their number.
  Result<std::vector<float>> embed(const std::vector<TokenSequence>& batch,
                                   int64_t* truncated = nullptr);
  int32_t embedding_size() const;

  // From start_profile on, counts what the passes of this model do; stop_profile gives it, in the
  // order of a layer, without what did not occur, and ends the counting.
  void start_profile();
  std::vector<OperationProfile> stop_profile();
  // Of the passes that were counted last.
  CacheReadProfile cache_reads() const;

  // The plan in force as JSON, with the reason of every choice. Written to a file it can be forced
  // by LoadOptions::plan_file.
  std::string plan_json() const;

  // The schedule of cascade pruning in force as JSON, with what each layer keeps of a text of so
  // many tokens and which part of the dense work that is; "null" where nothing leaves.
  std::string pruning_json(int32_t tokens) const;

 private:
  friend struct ModelAccess;  // the library's own way to what is inside
  explicit Model(std::unique_ptr<ModelState> state);
  std::unique_ptr<ModelState> state_;
};

// The kernel rows of this build on this machine: [{"family": ..., "row": ..., "state": ...}],
// families in the order of the table and rows best first; state is "first choice", "available" or
// the reason why not.
TESSERA_API std::string kernels_json();

}  // namespace tessera
