#include "runtime/scheduler.h"

#include <algorithm>

namespace tessera {
namespace {

class Planner {
 public:
  Planner(std::span<const Candidate> candidates, const StepBudget& budget, const PageCounts& pages)
      : candidates_(candidates), budget_(budget), pages_(pages), free_(pages.free) {
    plan_.rows.assign(candidates.size(), 0);
    needed_.assign(candidates.size(), 0);
    for (const Candidate& each : candidates) {
      holds_.push_back(each.holds_pages);
      holders_ += each.holds_pages ? 1 : 0;
    }
  }

  StepPlan plan() {
    decode();
    prompts_and_encodings();
    return std::move(plan_);
  }

 private:
  void decode() {
    for (size_t i = 0; i < candidates_.size(); ++i) {
      const Candidate& each = candidates_[i];
      if (each.stage != Stage::kDecoding || !holds_[i] || !take(i, each.rows)) continue;
      decoding_rows_ += each.rows;
      decoding_sequences_ += each.sequences;
    }
  }

  int32_t rows_beside_decoding() const {
    if (decoding_rows_ == 0) return std::max(budget_.step_rows, budget_.idle_rows);
    return std::max({budget_.step_rows - decoding_rows_, budget_.step_rows / 4, 1});
  }

  void prompts_and_encodings() {
    std::vector<size_t> prompts, encodings;
    for (size_t i = 0; i < candidates_.size(); ++i) {
      if (candidates_[i].stage == Stage::kPrompt) prompts.push_back(i);
      if (candidates_[i].stage == Stage::kEncoding) encodings.push_back(i);
    }
    int32_t left = rows_beside_decoding();
    const bool alone = decoding_rows_ == 0 && prompts.empty();
    if (alone) left = budget_.encoding_rows;
    const bool encodings_first =
        prompts.empty() || (!encodings.empty() && encodings.front() < prompts.front());
    if (encodings_first) encode(encodings, left);
    read(prompts, left);
    if (!encodings_first) encode(encodings, left);
  }

  void read(const std::vector<size_t>& prompts, int32_t& left) {
    for (const size_t i : prompts) {
      if (left <= 0) return;
      // Nobody begins before those who are older, nor in the step in which somebody gives way.
      if (!holds_[i] && (!plan_.preempted.empty() || !begins(i))) return;
      const Candidate& each = candidates_[i];
      const int32_t rows =
          each.is_whole ? each.rows : std::min({each.rows, left, budget_.prompt_rows});
      if (take(i, rows)) left -= rows;
    }
  }

  bool begins(size_t i) const {
    if (holders_ == 0) return true;
    const int64_t spare = pages_.a_sequence * decoding_sequences_;
    return holders_ < budget_.requests && pages_.needed(i, candidates_[i].rows) + spare <= free_;
  }

  void encode(const std::vector<size_t>& encodings, int32_t& left) {
    if (left <= 0) return;
    std::vector<int64_t> lengths;
    for (const size_t i : encodings) lengths.push_back(candidates_[i].rows);
    const size_t count = sequences_in_pass(lengths, left);
    for (size_t j = 0; j < count; ++j) {
      plan_.rows[encodings[j]] = candidates_[encodings[j]].rows;
      left -= candidates_[encodings[j]].rows;
    }
  }

  // Gives a candidate rows and the pages for them, if need be those of younger ones.
  bool take(size_t i, int32_t rows) {
    const int64_t needed = pages_.needed(i, rows);
    for (size_t victim = candidates_.size(); needed > free_ && --victim > i;) {
      if (holds_[victim]) preempt(victim);
    }
    if (needed > free_) return false;
    if (!holds_[i]) ++holders_;
    holds_[i] = true;
    free_ -= needed;
    needed_[i] = needed;
    plan_.rows[i] = rows;
    return true;
  }

  void preempt(size_t victim) {
    if (candidates_[victim].holds_pages) {
      free_ += pages_.held(victim);
      plan_.preempted.push_back(victim);
    }
    free_ += needed_[victim];
    needed_[victim] = 0;
    plan_.rows[victim] = 0;
    holds_[victim] = false;
    --holders_;
  }

  std::span<const Candidate> candidates_;
  const StepBudget& budget_;
  const PageCounts& pages_;
  StepPlan plan_;
  int64_t free_;
  std::vector<int64_t> needed_;  // pages that the plan has given
  std::vector<bool> holds_;      // pages, when the plan so far has been carried out
  int32_t holders_ = 0;
  int32_t decoding_rows_ = 0;
  int32_t decoding_sequences_ = 0;
};

}  // namespace

StepPlan plan_step(std::span<const Candidate> candidates, const StepBudget& budget,
                   const PageCounts& pages) {
  return Planner(candidates, budget, pages).plan();
}

size_t sequences_in_pass(std::span<const int64_t> lengths, int64_t rows) {
  size_t count = 0;
  for (int64_t sum = 0; count < lengths.size(); ++count) {
    sum += lengths[count];
    if (count > 0 && sum > rows) break;
  }
  return count;
}

}  // namespace tessera
