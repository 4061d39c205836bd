#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "model/forward.h"
#include "runtime/model_state.h"
#include "tessera/engine.h"
#include "tessera/model.h"

// Sequences that run once, whole and without a cache: what Model::forward, Model::embed, the tasks
// and an engine's encodings are made of. Whoever runs a pass holds ModelState::in_use until it has
// read the results.
namespace tessera {

// Rows of one pass over a large batch: enough to fill every core, small enough to stay near the
// caches.
inline constexpr int32_t kEncodingRows = 4096;

// The sequences of one pass.
struct SequenceBatch {
  TokenLayout layout;
  std::vector<int32_t> ids, type_ids;
  bool typed = false;

  void add(const TokenSequence& sequence);
  // Refers to the batch.
  ForwardInput input() const;
};

// Whether what the encoder pools can be of the tokens that the model's pruning leaves.
Status check_pooling(const ModelState& state, const SentenceEncoder& encoder);

Status check_finite(std::span<const float> values, std::string_view what);

// Cuts sequences to text_limit as sentence-transformers does: the text's last tokens go, a
// closing special token stays. Returns how many it cut.
int64_t cut_to_limit(const ModelState& state, std::span<TokenSequence> sequences);

// Model::forward and, of sequences that are cut and checked, Model::embed. encoder: the model's, or
// one that pools otherwise; it leaves so many first tokens of each sequence out of its pooling.
Result<ForwardResult> forward_whole(ModelState& state, const std::vector<TokenSequence>& batch,
                                    const ForwardOptions& options);
Result<std::vector<float>> embed_whole(ModelState& state, const std::vector<TokenSequence>& batch,
                                       const SentenceEncoder& encoder, int64_t skipped);

// Whether the model can encode the sequence, which must be cut.
Status check_encoding(const ModelState& state, const EncodeRequest& request);
// One pass over checked requests; values[i] is what request i asks for, not yet known to be finite.
using Forward = std::function<Status(const ForwardInput&, ForwardOutput&)>;
Status encode_pass(const ModelState& state, const Forward& forward,
                   std::span<const EncodeRequest* const> requests,
                   std::vector<std::vector<float>>& values);

}  // namespace tessera
