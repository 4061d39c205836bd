#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace tessera::tasks {

// The probabilities that an answer starts or ends at each token of a window; 0 outside its context.
struct SpanScores {
  std::vector<float> start, end;
  std::vector<char> open;  // whether a span may hold the token
  float no_answer = 0;     // start times end of the first token

  // Softmax over the first token and those of the context; all [tokens].
  static SpanScores from_logits(std::span<const float> start, std::span<const float> end,
                                std::vector<char> context);
};

// Tokens begin .. last.
struct ScoredSpan {
  int32_t begin = 0, last = 0;
  float score = 0;
};

// The span of at most max_tokens open tokens with the largest start[begin] * end[last], the first
// of equals; none where no token is open.
std::optional<ScoredSpan> best_span(const SpanScores& scores, int32_t max_tokens);

}  // namespace tessera::tasks
