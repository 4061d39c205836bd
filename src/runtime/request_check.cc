#include "runtime/request_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "runtime/cache_rules.h"
#include "runtime/sampling.h"
#include "runtime/stop_strings.h"
#include "runtime/token_rules.h"

namespace tessera {
namespace {

Status check_count(const char* name, int32_t count) {
  if (count >= 1 && count <= kMostSequences) return {};
  return invalid_input(fmt::format("{}: expected 1 to {}, found {}", name, kMostSequences, count));
}

// What does not depend on the model.
Status check_options(const Request& request) {
  if (request.max_new_tokens < 1) {
    return invalid_input(
        fmt::format("max_new_tokens: expected at least 1, found {}", request.max_new_tokens));
  }
  TESSERA_RETURN_IF_ERROR(check_sampling(request.sampling));
  TESSERA_RETURN_IF_ERROR(check_stop_strings(request.stop_strings));
  TESSERA_RETURN_IF_ERROR(check_count("beams", request.beams));
  TESSERA_RETURN_IF_ERROR(check_count("sequences", request.sequences));
  if (request.beams > 1 && request.sampling.temperature > 0) {
    return unsupported(fmt::format("expected beams or a temperature above 0, found {} beams at {}",
                                   request.beams, request.sampling.temperature));
  }
  if (request.beams > 1 && !request.stop_strings.empty()) {
    return unsupported(fmt::format("expected beams or stop strings, found {} beams and {} strings",
                                   request.beams, request.stop_strings.size()));
  }
  if (request.beams > 1 && request.sequences > request.beams) {
    return invalid_input(fmt::format("sequences: expected at most {}, one a beam, found {}",
                                     request.beams, request.sequences));
  }
  if (request.beams == 1 && request.sampling.temperature == 0 && request.sequences > 1) {
    return invalid_input(fmt::format(
        "sequences: expected 1, since greedy ones would be equal, found {}", request.sequences));
  }
  return {};
}

bool selects(const ModelState& state) {
  const auto& layers = state.weights.layers;
  return std::any_of(layers.begin(), layers.end(),
                     [](const LayerWeights& layer) { return layer.attention.selects(); });
}

std::string text_of(const IntegerBits& bits) {
  const std::string lower = bits.lower > 0 ? fmt::format("+{}", bits.lower) : "";
  return fmt::format("\"{}{}\" with values of {}", bits.upper, lower, bits.value);
}

// All requests have their keys and values in pages of one pool, and a layer reads them together.
Status check_bits(const ModelState& state, const KeyPlanes& planes) {
  if (planes.empty()) return {};
  const PageShape& pages = state.weights.layers.front().attention.pages;
  const std::string wanted = text_of({planes.upper_bits, planes.lower_bits, planes.value_bits});
  const std::string there = pages.has_scales() ? text_of(pages.bits) : "none";
  if (wanted == there) return {};
  return unsupported(fmt::format(
      "pruning: expected the key_bits of the model's cache ({}) or none in a request's schedule, "
      "as all requests share that cache, found {}",
      there, wanted));
}

}  // namespace

int64_t positions_of(const Request& request) {
  return static_cast<int64_t>(request.prompt_ids.size()) + request.max_new_tokens - 1;
}

Result<RequestPruning> pruning_of(const ModelState& state, const Request& request) {
  RequestPruning pruning{.selects = selects(state)};
  if (request.pruning.empty()) {
    // Who observes what leaves is told where nothing does, too.
    if (state.prunes() || state.observer != nullptr)
      pruning.schedule = std::make_shared<const PruningSchedule>(*state.pruning);
    return pruning;
  }
  PruningSchedule own;
  if (request.pruning != kNoPruning) {
    TESSERA_ASSIGN_OR_RETURN(const NamedSchedule text, find_schedule(request.pruning));
    TESSERA_ASSIGN_OR_RETURN(own, read_schedule(text, state));
    TESSERA_RETURN_IF_ERROR(check_bits(state, own.planes));
  }
  pruning.selects = pruning.selects || !own.keeps_all_values();
  if (pruning.selects) {
    pruning.rules = std::make_shared<const std::vector<ReadRules>>(
        read_rules(own, state.weights.layers.size()));
  }
  if (!own.keeps_all_tokens() || !own.keeps_all_heads())
    pruning.schedule = std::make_shared<const PruningSchedule>(std::move(own));
  return pruning;
}

Status check_request(const ModelState& state, const Request& request) {
  const Architecture& a = state.architecture;
  if (!a.is_decoder() || a.head != Head::kCausalLm) {
    return unsupported(fmt::format(
        "expected a model with a causal language-model head to generate with, found {} ({})",
        a.class_name.empty() ? a.family : a.class_name,
        a.is_decoder() ? "a decoder without one" : "an encoder"));
  }
  TESSERA_RETURN_IF_ERROR(check_options(request));
  TESSERA_RETURN_IF_ERROR(check_sequence(state, {request.prompt_ids, {}}, "prompt"));
  TESSERA_RETURN_IF_ERROR(check_token_rules(request.rules, a.vocabulary_size));
  if (positions_of(request) > a.max_positions) {
    return invalid_input(fmt::format(
        "the prompt has {} tokens and {} new ones were asked for, which takes {} "
        "positions: more than the model's context of {}",
        request.prompt_ids.size(), request.max_new_tokens, positions_of(request), a.max_positions));
  }
  if (!request.stop_strings.empty() && state.tokenizer == nullptr) {
    return not_found(
        fmt::format("{} has no tokenizer: stop strings need text", state.info.directory));
  }
  return {};
}

}  // namespace tessera
