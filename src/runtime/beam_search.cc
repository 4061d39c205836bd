#include "runtime/beam_search.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "runtime/sampling.h"

namespace tessera {

BeamSearch::BeamSearch(Options options) : options_(std::move(options)), running_(1) {
  const std::set<int32_t> ends(options_.end_ids.begin(), options_.end_ids.end());
  wanted_ = static_cast<size_t>(options_.beams) * std::max<size_t>(2, 1 + ends.size());
}

Result<std::vector<BeamStep>> BeamSearch::next(std::span<const BeamInput> inputs) {
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < inputs.size(); ++i) {
    TESSERA_RETURN_IF_ERROR(add_candidates(inputs[i], static_cast<int32_t>(i), candidates));
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  candidates.resize(std::min(candidates.size(), wanted_));
  ++length_;
  take_finished(candidates);
  std::vector<BeamResult> running;
  std::vector<BeamStep> steps;
  for (const Candidate& each : candidates) {
    if (steps.size() == static_cast<size_t>(options_.beams)) break;
    if (end_of(each.step.token) != FinishReason::kNone) continue;
    running.push_back(extended(each));
    steps.push_back(each.step);
  }
  running_ = std::move(running);
  if (!can_improve()) {
    running_.clear();
    steps.clear();
  }
  return steps;
}

// Adds the best continuations of one beam in the order of their tokens; more than wanted_ cannot be
// among the best of all.
Status BeamSearch::add_candidates(const BeamInput& input, int32_t parent,
                                  std::vector<Candidate>& all) {
  TESSERA_RETURN_IF_ERROR(check_logits(input.logits));
  const double normaliser = log_sum_exp(input.logits);
  std::vector<float> plain(input.logits.size());
  std::transform(input.logits.begin(), input.logits.end(), plain.begin(),
                 [&](float logit) { return static_cast<float>(logit - normaliser); });
  scores_ = plain;
  if (options_.repetition_penalty != 1) {
    penalise(plain, input.seen, options_.repetition_penalty, scores_);
  }
  if (options_.rules.any()) options_.rules.apply(input.seen, scores_);
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < scores_.size(); ++i) {
    if (scores_[i] > -INFINITY) tokens.push_back(static_cast<int32_t>(i));
  }
  const auto score = [&](int32_t token) { return scores_[static_cast<size_t>(token)]; };
  const auto before = [&](int32_t a, int32_t b) {
    return score(a) != score(b) ? score(a) > score(b) : a < b;
  };
  if (tokens.size() > wanted_) {
    std::nth_element(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(wanted_),
                     tokens.end(), before);
    tokens.resize(wanted_);
  }
  std::sort(tokens.begin(), tokens.end());
  const double sum = running_[static_cast<size_t>(parent)].score;
  for (int32_t token : tokens) {
    all.push_back({sum + score(token), plain[static_cast<size_t>(token)], {parent, token}});
  }
  return {};
}

BeamResult BeamSearch::extended(const Candidate& candidate) const {
  BeamResult beam = running_[static_cast<size_t>(candidate.step.parent)];
  beam.ids.push_back(candidate.step.token);
  beam.log_probabilities.push_back(candidate.log_probability);
  beam.score = candidate.score;
  return beam;
}

FinishReason BeamSearch::end_of(int32_t token) const {
  const auto& ends = options_.end_ids;
  if (std::find(ends.begin(), ends.end(), token) != ends.end()) return FinishReason::kEndToken;
  return length_ >= options_.max_new_tokens ? FinishReason::kLength : FinishReason::kNone;
}

// Only a candidate among the best `beams` may finish; the others stand by for those.
void BeamSearch::take_finished(const std::vector<Candidate>& best) {
  const size_t beams = static_cast<size_t>(options_.beams);
  for (size_t i = 0; i < std::min(best.size(), beams); ++i) {
    const FinishReason reason = end_of(best[i].step.token);
    if (reason == FinishReason::kNone) continue;
    BeamResult beam = extended(best[i]);
    beam.score = per_length(beam.score, length_);
    beam.finished = reason;
    const auto behind = std::upper_bound(
        finished_.begin(), finished_.end(), beam,
        [](const BeamResult& a, const BeamResult& b) { return a.score > b.score; });
    finished_.insert(behind, std::move(beam));
  }
  if (finished_.size() > beams) finished_.resize(beams);
}

bool BeamSearch::can_improve() const {
  if (running_.empty()) return false;
  if (finished_.size() < static_cast<size_t>(options_.beams)) return true;
  if (options_.early_stopping == EarlyStopping::kAtOnce) return false;
  const bool longest =
      options_.early_stopping == EarlyStopping::kNever && options_.length_penalty > 0;
  const int32_t length = longest ? options_.max_new_tokens : length_;
  return per_length(running_.front().score, length) > finished_.back().score;
}

double BeamSearch::per_length(double score, int32_t length) const {
  return options_.length_penalty == 1 ? score / length
                                      : score / std::pow(length, options_.length_penalty);
}

}  // namespace tessera
