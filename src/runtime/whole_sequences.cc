#include "runtime/whole_sequences.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <optional>

#include "runtime/pruned_pass.h"
#include "runtime/scheduler.h"

namespace tessera {
namespace {

// A pass that has run.
struct Passed {
  const TokenLayout& layout;
  const PrunedPass& pruned;
  const ForwardOutput& output;
};

// Runs a batch in passes of about kEncodingRows rows and hands each to `take` with the index of its
// first sequence.
template <typename Configure, typename Take>
Status run_in_passes(ModelState& state, std::span<const TokenSequence> batch,
                     const PassReaders& readers, Configure configure, Take take) {
  std::vector<int64_t> lengths;
  for (const TokenSequence& each : batch) lengths.push_back(static_cast<int64_t>(each.ids.size()));
  for (size_t first = 0; first < batch.size();) {
    const size_t count = sequences_in_pass(std::span(lengths).subspan(first), kEncodingRows);
    SequenceBatch pass;
    for (const TokenSequence& sequence : batch.subspan(first, count)) pass.add(sequence);
    const PrunedPass pruned(state, pass, readers);
    ForwardInput input = pass.input();
    pruned.schedule(input);
    ForwardOutput output;
    configure(input, output);
    const std::lock_guard<std::mutex> turn(state.in_use);
    TESSERA_RETURN_IF_ERROR(state.executor->run(input, output));
    take(first, Passed{pass.layout, pruned, output});
    first += count;
  }
  return {};
}

void append(std::vector<float>& target, std::span<const float> part) {
  target.insert(target.end(), part.begin(), part.end());
}

void split_start_and_end(ForwardResult& result) {
  for (size_t i = 0; i + 1 < result.logits.size(); i += 2) {
    result.start_logits.push_back(result.logits[i]);
    result.end_logits.push_back(result.logits[i + 1]);
  }
  result.logits.clear();
  result.logits_width = 0;
}

// The rows of sequence s of a pass that are pooled, of which the first `skipped` tokens are left
// out. Where survivors alone are pooled, they are moved together, and the others are overwritten.
PooledRows rows_of(const ModelState& state, const Passed& pass, size_t s, int64_t skipped,
                   std::vector<float>& hidden) {
  const int64_t size = state.architecture.hidden_size;
  const int32_t first = pass.layout.offsets[s];
  float* rows = hidden.data() + first * size;
  const std::span<const int32_t> survivors = pass.pruned.survivors(s);
  const int64_t all = pass.layout.length(static_cast<int64_t>(s));
  if (survivors.empty() || state.pruning->pooling == PoolRows::kAll)
    return {rows, all, size, skipped};
  float* target = rows;
  for (const int32_t row : survivors) {
    std::copy_n(rows + row * size, size, target);
    target += size;
  }
  const auto text = std::lower_bound(survivors.begin(), survivors.end(), skipped);
  return {rows, static_cast<int64_t>(survivors.size()), size, text - survivors.begin()};
}

}  // namespace

void SequenceBatch::add(const TokenSequence& sequence) {
  layout.append(static_cast<int32_t>(sequence.ids.size()), 0);
  ids.insert(ids.end(), sequence.ids.begin(), sequence.ids.end());
  type_ids.insert(type_ids.end(), sequence.type_ids.begin(), sequence.type_ids.end());
  type_ids.resize(ids.size());
  typed = typed || !sequence.type_ids.empty();
}

ForwardInput SequenceBatch::input() const {
  ForwardInput input{.ids = ids, .layout = &layout};
  if (typed) input.type_ids = type_ids;
  return input;
}

Status check_finite(std::span<const float> values, std::string_view what) {
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
  if (bad == values.end()) return {};
  return invalid_input(fmt::format(
      "expected finite {}, found {}: the model's weights are too large for these tokens", what,
      *bad));
}

Status check_pooling(const ModelState& state, const SentenceEncoder& encoder) {
  if (!state.pruning || state.pruning->pooling == PoolRows::kAll) return {};
  const auto& poolings = encoder.poolings;
  if (std::find(poolings.begin(), poolings.end(), Pooling::kWeightedMean) == poolings.end())
    return {};
  return unsupported(
      "pruning: pooling: expected \"all\" where tokens are weighted by their place, found "
      "\"survivors\"");
}

HeadRows head_rows(const Architecture& architecture) {
  if (architecture.head == Head::kNone) return HeadRows::kNone;
  switch (architecture.names.head.reads) {
    case HeadReads::kFirstToken:
      return HeadRows::kFirstOfEach;
    case HeadReads::kLastToken:
      return HeadRows::kLastOfEach;
    default:
      return HeadRows::kAll;
  }
}

size_t text_limit(const ModelState& state) {
  const int32_t context = state.architecture.max_positions,
                declared = state.sentence_encoder.max_tokens;
  return static_cast<size_t>(declared > 0 ? std::min(declared, context) : context);
}

int64_t cut_to_limit(const ModelState& state, std::span<TokenSequence> sequences) {
  const size_t limit = text_limit(state);
  std::optional<int32_t> closing;
  if (state.tokenizer != nullptr) {
    const auto nothing = state.tokenizer->encode({""});
    if (nothing.ok() && !nothing->ids.empty()) closing = nothing->ids.back();
  }
  int64_t count = 0;
  for (TokenSequence& sequence : sequences) {
    if (sequence.ids.size() <= limit) continue;
    if (closing == sequence.ids.back()) sequence.ids[limit - 1] = *closing;
    sequence.ids.resize(limit);
    if (sequence.type_ids.size() > limit) sequence.type_ids.resize(limit);
    ++count;
  }
  return count;
}

Result<ForwardResult> forward_whole(ModelState& state, const std::vector<TokenSequence>& batch,
                                    const ForwardOptions& options) {
  const Architecture& a = state.architecture;
  ForwardResult result;
  result.offsets = {0};
  for (const TokenSequence& sequence : batch) {
    result.offsets.push_back(result.offsets.back() + static_cast<int32_t>(sequence.ids.size()));
  }
  if (options.hidden_states) result.hidden_states.resize(a.layers.size() + 1);
  std::vector<std::vector<float>> hidden;
  const auto configure = [&](ForwardInput& input, ForwardOutput& output) {
    input.head_rows = head_rows(a);
    if (options.hidden_states) output.all_hidden = &hidden;
  };
  TESSERA_RETURN_IF_ERROR(run_in_passes(state, batch, {.head = head_rows(a)}, configure,
                                        [&](size_t, const Passed& pass) {
                                          append(result.logits, pass.output.logits);
                                          result.logits_width = pass.output.width;
                                          for (size_t i = 0; i < hidden.size(); ++i)
                                            append(result.hidden_states[i], hidden[i]);
                                        }));
  TESSERA_RETURN_IF_ERROR(check_finite(result.logits, "logits"));
  if (a.head == Head::kQuestionAnswering) split_start_and_end(result);
  return result;
}

Result<std::vector<float>> embed_whole(ModelState& state, const std::vector<TokenSequence>& batch,
                                       const SentenceEncoder& encoder, int64_t skipped) {
  TESSERA_RETURN_IF_ERROR(check_pooling(state, encoder));
  const auto width = static_cast<size_t>(encoder.width(state.architecture.hidden_size));
  std::vector<float> vectors(batch.size() * width);
  std::vector<float> hidden;
  TESSERA_RETURN_IF_ERROR(run_in_passes(
      state, batch, {.poolings = encoder.poolings, .skipped = skipped},
      [&](ForwardInput&, ForwardOutput& output) { output.last_hidden = &hidden; },
      [&](size_t first, const Passed& pass) {
        for (size_t s = 0; s < static_cast<size_t>(pass.layout.sequences()); ++s) {
          encoder.embed(rows_of(state, pass, s, skipped, hidden),
                        vectors.data() + (first + s) * width);
        }
      }));
  TESSERA_RETURN_IF_ERROR(check_finite(vectors, "embeddings"));
  return vectors;
}

Status check_encoding(const ModelState& state, const EncodeRequest& request) {
  if (request.output == EncodeOutput::kHead && state.architecture.head == Head::kNone) {
    return unsupported(fmt::format("expected a model with a head to give logits, found {}",
                                   state.info.architecture));
  }
  return check_sequence(state, request.sequence, "sequence");
}

Status encode_pass(const ModelState& state, const Forward& forward,
                   std::span<const EncodeRequest* const> requests,
                   std::vector<std::vector<float>>& values) {
  const Architecture& a = state.architecture;
  SequenceBatch batch;
  for (const EncodeRequest* each : requests) batch.add(each->sequence);
  const auto wants = [&](EncodeOutput output) {
    return std::any_of(requests.begin(), requests.end(),
                       [&](const EncodeRequest* each) { return each->output == output; });
  };
  const bool embeds = wants(EncodeOutput::kEmbedding), heads = wants(EncodeOutput::kHead);
  PassReaders readers;
  if (heads) readers.head = head_rows(a);
  if (embeds) readers.poolings = state.sentence_encoder.poolings;
  const PrunedPass pruned(state, batch, readers);
  ForwardInput input = batch.input();
  pruned.schedule(input);
  ForwardOutput output;
  std::vector<float> hidden;
  if (embeds) output.last_hidden = &hidden;
  if (heads) input.head_rows = head_rows(a);
  TESSERA_RETURN_IF_ERROR(forward(input, output));
  values.assign(requests.size(), {});
  for (size_t s = 0; s < requests.size(); ++s) {
    if (requests[s]->output == EncodeOutput::kEmbedding) {
      values[s].resize(static_cast<size_t>(state.sentence_encoder.width(a.hidden_size)));
      state.sentence_encoder.embed(rows_of(state, {batch.layout, pruned, output}, s, 0, hidden),
                                   values[s].data());
      continue;
    }
    const bool all = input.head_rows == HeadRows::kAll;
    const auto width = static_cast<size_t>(output.width);
    const size_t first = all ? static_cast<size_t>(batch.layout.offsets[s]) : s;
    const size_t rows = all ? requests[s]->sequence.ids.size() : 1;
    append(values[s], output.logits.subspan(first * width, rows * width));
  }
  return {};
}

}  // namespace tessera
