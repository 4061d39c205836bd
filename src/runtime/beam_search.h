#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "runtime/token_rules.h"
#include "tessera/engine.h"

namespace tessera {

// What one running beam brings to a step. logits: [vocabulary], those behind its last token; seen:
// the ids of prompt and output, for the repetition penalty.
struct BeamInput {
  std::span<const float> logits;
  std::span<const int32_t> seen;
};

// The next beam: running beam `parent` continued by `token`.
struct BeamStep {
  int32_t parent = 0;
  int32_t token = 0;
};

struct BeamResult {
  std::vector<int32_t> ids;
  std::vector<float> log_probabilities;  // of the ids, by the model's own logits
  double score = 0;                      // of all ids together, per token once the beam is finished
  FinishReason finished = FinishReason::kNone;
};

// Beam search as transformers' generate does it without sampling: a beam's score is the sum of its
// tokens' log-probabilities (after the repetition penalty and the rules, which work on
// log-probabilities here); of each step's continuations those among the best `beams` that end are
// finished, with their score divided by their length to the power of length_penalty, and the best
// `beams` that do not end run on. The search is over when `beams` are finished and early_stopping
// says so, or at max_new_tokens. Deterministic: of equal scores the earlier beam and the smaller
// token come first.
class BeamSearch {
 public:
  struct Options {
    int32_t beams = 1;
    int32_t max_new_tokens = 1;
    float repetition_penalty = 1;
    float length_penalty = 1;
    EarlyStopping early_stopping = EarlyStopping::kHeuristic;
    std::vector<int32_t> end_ids;
    ActiveRules rules = {};
  };
  explicit BeamSearch(Options options);

  // Takes every running beam in its order, at first one alone behind the prompt; gives the beams to
  // run next, none when the search is over. Errors as check_logits.
  Result<std::vector<BeamStep>> next(std::span<const BeamInput> inputs);
  // The finished beams, best first: as many as there are beams, or all that the vocabulary can
  // form.
  const std::vector<BeamResult>& results() const { return finished_; }

 private:
  struct Candidate {
    double score;
    float log_probability;
    BeamStep step;
  };
  Status add_candidates(const BeamInput& input, int32_t parent, std::vector<Candidate>& all);
  BeamResult extended(const Candidate& candidate) const;
  FinishReason end_of(int32_t token) const;
  void take_finished(const std::vector<Candidate>& best);
  bool can_improve() const;
  double per_length(double score, int32_t length) const;

  Options options_;
  size_t wanted_;  // candidates of a step: enough that `beams` do not end
  int32_t length_ = 0;
  std::vector<float> scores_;        // of one beam's tokens
  std::vector<BeamResult> running_;  // best first
  std::vector<BeamResult> finished_;
};

}  // namespace tessera
