#include "runtime/tasks/spans.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace tessera::tasks {
namespace {

// The share of the first token is kept apart from the others: it stands for "no answer".
std::vector<float> shares(std::span<const float> logits, const std::vector<char>& context,
                          float* first) {
  const auto counts = [&](size_t t) { return t == 0 || context[t] != 0; };
  double largest = logits[0], sum = 0;
  for (size_t t = 0; t < logits.size(); ++t) {
    if (counts(t)) largest = std::max<double>(largest, logits[t]);
  }
  for (size_t t = 0; t < logits.size(); ++t) {
    if (counts(t)) sum += std::exp(logits[t] - largest);
  }
  std::vector<float> shares(logits.size());
  for (size_t t = 0; t < logits.size(); ++t) {
    if (context[t] != 0) shares[t] = static_cast<float>(std::exp(logits[t] - largest) / sum);
  }
  *first = static_cast<float>(std::exp(logits[0] - largest) / sum);
  return shares;
}

}  // namespace

SpanScores SpanScores::from_logits(std::span<const float> start, std::span<const float> end,
                                   std::vector<char> context) {
  SpanScores scores;
  float first_start = 0, first_end = 0;
  scores.start = shares(start, context, &first_start);
  scores.end = shares(end, context, &first_end);
  scores.no_answer = first_start * first_end;
  scores.open = std::move(context);
  return scores;
}

std::optional<ScoredSpan> best_span(const SpanScores& scores, int32_t max_tokens) {
  std::optional<ScoredSpan> best;
  const int64_t tokens = static_cast<int64_t>(scores.open.size());
  const auto at = [](int64_t t) { return static_cast<size_t>(t); };
  for (int64_t begin = 0; begin < tokens; ++begin) {
    const int64_t end = std::min(tokens, begin + max_tokens);
    for (int64_t last = begin; last < end && scores.open[at(last)] != 0; ++last) {
      const float score = scores.start[at(begin)] * scores.end[at(last)];
      if (best && score <= best->score) continue;
      best = {static_cast<int32_t>(begin), static_cast<int32_t>(last), score};
    }
  }
  return best;
}

}  // namespace tessera::tasks
