#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "base/guarded.h"
#include "runtime/tasks/batching.h"

namespace tessera::tasks {
namespace {

Result<int32_t> find_mask_id(const ModelState& state, const FillMaskOptions& options) {
  const int32_t vocabulary = state.info.vocabulary_size;
  std::optional<int32_t> id = options.mask_id;
  if (!id && state.tokenizer != nullptr) id = state.tokenizer->mask_id();
  if (!id) {
    return not_found(fmt::format("{} names no mask token: give its id", state.info.directory));
  }
  if (*id < 0 || *id >= vocabulary) {
    return invalid_input(
        fmt::format("expected a mask id from 0 to {}, found {}", vocabulary - 1, *id));
  }
  return *id;
}

Result<std::vector<int32_t>> find_masks(const ModelState& state, const Sequence& sequence,
                                        int32_t mask_id) {
  std::vector<int32_t> positions;
  const std::vector<int32_t>& ids = sequence.tokens.ids;
  for (size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] == mask_id) positions.push_back(static_cast<int32_t>(t));
  }
  if (!positions.empty()) return positions;
  const std::string token = state.tokenizer == nullptr ? "" : state.tokenizer->token_of(mask_id);
  return invalid_input(fmt::format("expected a mask ({}){}, found none",
                                   token.empty() ? fmt::format("id {}", mask_id) : token,
                                   sequence.truncated ? " before the text was cut" : ""));
}

std::vector<MaskCandidate> best_of(std::span<const float> logits, int32_t wanted) {
  const std::vector<float> scores = softmax(logits);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const size_t count = std::min(logits.size(), static_cast<size_t>(wanted));
  const auto value = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::partial_sort(
      order.begin(), order.begin() + static_cast<int64_t>(count), order.end(),
      [&](int32_t a, int32_t b) { return value(a) != value(b) ? value(a) > value(b) : a < b; });
  std::vector<MaskCandidate> best(count);
  for (size_t i = 0; i < count; ++i) {
    best[i].id = order[i];
    best[i].score = scores[static_cast<size_t>(order[i])];
  }
  return best;
}

// An id that the tokenizer lacks has no text: checkpoints may be padded with rows for none.
std::string decoded(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                    DecodeSpecial special) {
  auto text = tokenizer.decode(ids, special);
  return text.ok() ? std::move(text).value() : std::string();
}

FilledMasks fill(const ModelState& state, const Sequence& sequence,
                 const std::vector<int32_t>& positions, std::span<const float> logits,
                 const FillMaskOptions& options) {
  FilledMasks result;
  result.positions = positions;
  result.truncated = sequence.truncated;
  if (options.logits == Logits::kGive) result.logits.assign(logits.begin(), logits.end());
  const Tokenizer* tokenizer = state.tokenizer.get();
  std::vector<int32_t> filled = sequence.tokens.ids;
  const size_t width = logits.size() / positions.size();
  for (size_t m = 0; m < positions.size(); ++m) {
    result.candidates.push_back(best_of(logits.subspan(m * width, width), options.candidates));
    for (MaskCandidate& candidate : result.candidates.back()) {
      if (tokenizer == nullptr || candidate.id >= tokenizer->vocabulary_size()) continue;
      candidate.token = tokenizer->token_of(candidate.id);
      candidate.text = decoded(*tokenizer, {candidate.id}, DecodeSpecial::kKeep);
    }
    filled[static_cast<size_t>(positions[m])] = result.candidates.back().front().id;
  }
  if (tokenizer != nullptr) result.text = decoded(*tokenizer, filled, DecodeSpecial::kSkip);
  return result;
}

Result<std::vector<FilledMasks>> run(ModelState& state, std::span<const TaskInput> inputs,
                                     const FillMaskOptions& options) {
  if (options.candidates < 1) {
    return invalid_input(
        fmt::format("expected at least 1 candidate a mask, found {}", options.candidates));
  }
  TESSERA_ASSIGN_OR_RETURN(const int32_t mask_id, find_mask_id(state, options));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<Sequence> sequences,
                           to_sequences(state, inputs, options, Origins::kOmit));
  std::vector<Item> items;
  for (size_t i = 0; i < sequences.size(); ++i) {
    auto masks = find_masks(state, sequences[i], mask_id);
    if (!masks.ok()) return at_input(i, masks.status());
    items.push_back({&sequences[i].tokens, i, std::move(masks).value()});
  }
  std::vector<FilledMasks> results(inputs.size());
  TESSERA_RETURN_IF_ERROR(run_items(state, {items, inputs.size(), HeadRows::kGiven}, options,
                                    [&](size_t i, std::span<const float> logits) -> Status {
                                      results[i] =
                                          fill(state, sequences[i], items[i].rows, logits, options);
                                      return {};
                                    }));
  return results;
}

}  // namespace
}  // namespace tessera::tasks

namespace tessera {

Result<std::vector<FilledMasks>> fill_mask(Model& model, std::span<const TaskInput> inputs,
                                           const FillMaskOptions& options) {
  return guarded("fill_mask", [&]() -> Result<std::vector<FilledMasks>> {
    TESSERA_RETURN_IF_ERROR(tasks::require_head(model, Head::kMaskedLm, "fill_mask"));
    return tasks::run(state_of(model), inputs, options);
  });
}

}  // namespace tessera
