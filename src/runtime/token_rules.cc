#include "runtime/token_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

void forbid(std::span<const int32_t> tokens, std::span<float> scores) {
  for (const int32_t token : tokens) scores[static_cast<size_t>(token)] = -INFINITY;
}

void force(std::span<const int32_t> tokens, std::span<float> scores) {
  std::fill(scores.begin(), scores.end(), -INFINITY);
  for (const int32_t token : tokens) scores[static_cast<size_t>(token)] = 0;
}

Status check_ids(std::string_view name, std::span<const int32_t> ids, int32_t vocabulary_size) {
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocabulary_size) continue;
    return invalid_input(
        fmt::format("{}: expected ids from 0 to {}, found {}", name, vocabulary_size - 1, id));
  }
  return {};
}

}  // namespace

Status check_token_rules(const TokenRules& rules, int32_t vocabulary_size) {
  for (const auto& [name, value] : {std::pair("no_repeat_ngram_size", rules.no_repeat_ngram_size),
                                    std::pair("min_new_tokens", rules.min_new_tokens)}) {
    if (value < 0) {
      return invalid_input(fmt::format("{}: expected an integer >= 0, found {}", name, value));
    }
  }
  for (const std::vector<int32_t>& word : rules.bad_words) {
    if (word.empty())
      return invalid_input("bad_words: expected lists of tokens, found an empty one");
    TESSERA_RETURN_IF_ERROR(check_ids("bad_words", word, vocabulary_size));
  }
  if (rules.forced_first) {
    TESSERA_RETURN_IF_ERROR(
        check_ids("forced_first", std::span(&*rules.forced_first, 1), vocabulary_size));
  }
  TESSERA_RETURN_IF_ERROR(check_ids("forced_last", rules.forced_last, vocabulary_size));
  TESSERA_RETURN_IF_ERROR(check_ids("suppressed", rules.suppressed, vocabulary_size));
  return check_ids("suppressed_first", rules.suppressed_first, vocabulary_size);
}

ActiveRules::ActiveRules(const Request& request)
    : rules_(request.rules),
      end_ids_(request.stop_ids),
      prompt_tokens_(request.prompt_ids.size()),
      max_new_tokens_(static_cast<size_t>(request.max_new_tokens)) {
  std::erase_if(rules_.bad_words, [&](const std::vector<int32_t>& word) {
    return word.size() == 1 &&
           std::find(end_ids_.begin(), end_ids_.end(), word[0]) != end_ids_.end();
  });
  any_ = rules_.no_repeat_ngram_size > 0 || !rules_.bad_words.empty() ||
         rules_.min_new_tokens > 0 || rules_.forced_first || !rules_.forced_last.empty() ||
         !rules_.suppressed.empty() || !rules_.suppressed_first.empty();
}

// What followed the last size - 1 tokens wherever they occurred before.
void ActiveRules::forbid_repeats(std::span<const int32_t> seen, std::span<float> scores) const {
  const auto size = static_cast<size_t>(rules_.no_repeat_ngram_size);
  if (size == 0 || seen.size() < size) return;
  const auto last = seen.last(size - 1);
  for (size_t begin = 0; begin + size <= seen.size(); ++begin) {
    if (!std::equal(last.begin(), last.end(), seen.begin() + static_cast<std::ptrdiff_t>(begin))) {
      continue;
    }
    scores[static_cast<size_t>(seen[begin + size - 1])] = -INFINITY;
  }
}

void ActiveRules::forbid_bad_words(std::span<const int32_t> seen, std::span<float> scores) const {
  for (const std::vector<int32_t>& word : rules_.bad_words) {
    if (seen.size() < word.size()) continue;
    const auto before = std::span(word).first(word.size() - 1);
    const auto last = seen.last(before.size());
    if (std::equal(before.begin(), before.end(), last.begin())) {
      scores[static_cast<size_t>(word.back())] = -INFINITY;
    }
  }
}

void ActiveRules::forbid_at_begin_and_end(std::span<const int32_t> seen,
                                          std::span<float> scores) const {
  const size_t made = seen.size() - prompt_tokens_;
  if (made < static_cast<size_t>(rules_.min_new_tokens)) forbid(end_ids_, scores);
  const bool forces = rules_.forced_first && prompt_tokens_ == 1;
  if (forces && made == 0) force(std::span(&*rules_.forced_first, 1), scores);
  if (!rules_.forced_last.empty() && made + 1 == max_new_tokens_) {
    force(rules_.forced_last, scores);
  }
  forbid(rules_.suppressed, scores);
  // Behind a first token that is forced the second one is the first that is free.
  if (made == (forces ? 1u : 0u)) forbid(rules_.suppressed_first, scores);
}

void ActiveRules::apply(std::span<const int32_t> seen, std::span<float> scores) const {
  forbid_repeats(seen, scores);
  forbid_bad_words(seen, scores);
  forbid_at_begin_and_end(seen, scores);
}

}  // namespace tessera
