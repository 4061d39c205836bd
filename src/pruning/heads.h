#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pruning/schedule.h"

namespace tessera {

// The query heads of a sequence on their way through layers and steps (SpAtten, section III.A): how
// much each has given so far, and where it is alive. Step 0 runs the text or prompt, step t the
// token behind it. With E what the heads give in a layer, before the output map, over the rows that
// the step has there:
//   A(l,t) = those k_l of A(l-1,t) and A(l,t-1) with the largest s, of equals the first ones;
//   s_h <- s_h + sum_q sum_d |E[h,q,d]|, once layer l has attended.
// Nothing is chosen before anything has been added, so that the first layer of a text has all
// heads. What left a layer never comes back to it or to a later one: A(l,t) lies within A(l-1,t)
// and A(l,t-1). As dead heads give nothing more, those alive in a layer are among the k of largest
// s in every layer before it, so that k_l of them are left there. Nothing allocates or throws once
// it is made. A copy goes on by itself.
class HeadCascade {
 public:
  // kPrune for a text, else what the schedule does with a prompt: with kScore step 0 keeps all,
  // with kSkip step 0 adds nothing and step 1 keeps all, too.
  HeadCascade(const PruningSchedule& schedule, const ScheduledModel& model, Prefill first_step);

  // Begins the step of so many tokens behind `before` others: step 0, afresh, where that is 0, else
  // of one token. A step that did not run may be begun anew.
  void begin(int32_t before, int32_t tokens);
  // Whether heads may leave in any layer, in this step or a later one.
  bool may_drop() const;
  // Whether what heads give in this step counts.
  bool is_scored() const { return step_ > 0 || first_step_ != Prefill::kSkip; }
  // Whether what they give in this layer of it may decide what leaves.
  bool observes(int32_t layer) const;

  // To be called in front of each layer in turn. live: [heads], 0 for those that are dead there.
  void choose(int32_t layer, std::span<uint8_t> live);
  // magnitudes: [rows, heads], sums over d; those of dead heads are 0. In a step that is scored.
  void add(const float* magnitudes, int64_t rows);

  bool is_alive(int32_t head, int32_t layer) const {
    return layers_of_[static_cast<size_t>(head)] > layer;
  }
  std::span<const double> importance() const { return scores_; }

 private:
  int32_t alive(int32_t layer) const;
  bool keeps_all() const;

  std::vector<int32_t> kept_;  // [layer]
  Prefill first_step_;
  int32_t first_tokens_ = 0;  // of step 0
  int32_t step_ = 0;
  bool has_scores_ = false;
  std::vector<double> scores_;      // [heads]
  std::vector<int32_t> layers_of_;  // in which the head is alive: the first ones
};

}  // namespace tessera
