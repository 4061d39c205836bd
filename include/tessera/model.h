#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tessera/status.h"

namespace tessera {

class Tokenizer;
struct ModelState;

// What a model's last layer feeds.
enum class Head {
  kNone,                    // hidden states only
  kCausalLm,                // logits [tokens, vocabulary]
  kMaskedLm,                // logits [tokens, vocabulary]
  kSequenceClassification,  // logits [labels]
  kTokenClassification,     // logits [tokens, labels]
  kQuestionAnswering,       // start and end logits [tokens]
};

// How weights are kept. kAuto: as the checkpoint has them, f16 as f32.
enum class WeightType { kAuto, kF32, kBF16 };

struct LoadOptions {
  int threads = 0;  // < 1: every CPU this process may use
  WeightType weights = WeightType::kAuto;
  std::string plan_file;  // a plan to force, as Model::plan_json gives it; empty: choose
};

// What generation_config.json recommends, as it stands there; empty where it says nothing. The
// library itself uses none of it: a Request says what it wants.
struct GenerationDefaults {
  std::optional<bool> do_sample;
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int32_t> top_k, max_new_tokens;
};

struct ModelInfo {
  std::string directory;
  std::string family;        // "bert", "llama", ...
  std::string architecture;  // class name in config.json
  Head head = Head::kNone;
  int32_t layers = 0;
  int32_t hidden_size = 0;
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  int32_t head_size = 0;
  int32_t ffn_size = 0;
  int32_t vocabulary_size = 0;
  int32_t max_positions = 0;  // the longest sequence the model can take, in tokens
  int32_t type_vocabulary_size = 0;
  int64_t parameters = 0;
  int64_t checkpoint_bytes = 0;
  int64_t prepared_bytes = 0;   // weights in memory
  int64_t flops_per_token = 0;  // of the linear maps, head included, dense
  int64_t cache_bytes_per_token = 0;
  std::string weight_type;          // "f32" or "bf16"
  std::vector<std::string> labels;  // of classification heads
  int threads = 0;                  // of the team that runs it
  GenerationDefaults generation;
  bool has_tokenizer = false;
  bool is_decoder = false;
  bool is_sentence_encoder =
      false;  // a sentence-transformers directory: embed() pools and normalises as it says
};

// Token ids of one sequence; type_ids empty means all 0.
struct TokenSequence {
  std::vector<int32_t> ids;
  std::vector<int32_t> type_ids;
};

struct ForwardOptions {
  bool hidden_states = false;
};

// Results for the rows of all sequences one after another; row r of sequence s is offsets[s] + r.
// Tensors are row-major.
struct ForwardResult {
  std::vector<int32_t> offsets;
  // kCausalLm, kMaskedLm, kTokenClassification: [rows, width]; kSequenceClassification: [sequences,
  // width].
  std::vector<float> logits;
  int32_t logits_width = 0;
  std::vector<float> start_logits, end_logits;  // kQuestionAnswering: [rows]
  // hidden_states[0] leaves the embeddings, [i] layer i; a decoder's last one is after the final
  // norm. Each [rows, hidden_size].
  std::vector<std::vector<float>> hidden_states;
};

// A checkpoint prepared for execution. Its functions may be called from one thread at a time.
class Model {
 public:
  // Reads a Hugging Face directory: config.json, safetensors (one file or shards) and, where there
  // is one, the tokenizer.
  static Result<std::shared_ptr<Model>> load(const std::string& directory,
                                             const LoadOptions& options = {});
  ~Model();

  const ModelInfo& info() const;

  // Text to ids with the model's special tokens and back. kNotFound when the directory has no
  // tokenizer.
  Result<TokenSequence> tokenize(const std::string& text) const;
  Result<std::string> detokenize(const std::vector<int32_t>& ids) const;
  std::shared_ptr<const Tokenizer> tokenizer() const;  // null when the directory has none

  // Runs whole sequences, of any lengths, without a cache. Ids outside the vocabulary, empty
  // sequences and sequences longer than max_positions are errors.
  Result<ForwardResult> forward(const std::vector<TokenSequence>& batch,
                                const ForwardOptions& options = {});

  // One vector of embedding_size() floats a sequence, pooled (and normalised) as a
  // sentence-transformers directory says, else the mean over the tokens, normalised. Sequences
  // longer than the encoder's limit are cut to it, as sentence-transformers does; truncated, if not
  // null, becomes their number.
  Result<std::vector<float>> embed(const std::vector<TokenSequence>& batch,
                                   int64_t* truncated = nullptr);
  int32_t embedding_size() const;

  // The plan in force as JSON, with the reason of every choice. Written to a file it can be forced
  // by LoadOptions::plan_file.
  std::string plan_json() const;

 private:
  friend struct ModelAccess;  // the library's own way to what is inside
  explicit Model(std::unique_ptr<ModelState> state);
  std::unique_ptr<ModelState> state_;
};

// The kernel rows of this build on this machine: [{"family": ..., "row": ..., "state": ...}],
// families in the order of the table and rows best first; state is "first choice", "available" or
// the reason why not.
std::string kernels_json();

}  // namespace tessera
