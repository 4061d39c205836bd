#pragma once

#include <cstdint>
#include <vector>

#include "model/pass.h"
#include "pruning/heads.h"
#include "runtime/model_state.h"

namespace tessera {

// The heads of a pass, as the cascades of its sequences have them leave. It stays where it is while
// the pass runs.
class HeadPass {
 public:
  // Of so many whole texts, each of which runs once.
  HeadPass(const ModelState& state, size_t texts);
  // Of sequences whose step has begun. The cascades are the caller's; null: every head stays.
  HeadPass(const ModelState& state, std::vector<HeadCascade*> sequences);
  HeadPass(const HeadPass&) = delete;
  HeadPass& operator=(const HeadPass&) = delete;

  // Null where every head takes part in every layer.
  const HeadSchedule* schedule() const { return is_pruned_ ? &schedule_ : nullptr; }
  // Null where every head of the sequence stays.
  const HeadCascade* of(size_t sequence) const {
    return is_pruned_ ? sequences_[sequence] : nullptr;
  }

 private:
  void link(const ModelState& state);

  std::vector<HeadCascade> texts_;
  std::vector<HeadCascade*> sequences_;
  bool is_pruned_ = false;
  HeadSchedule schedule_;
};

}  // namespace tessera
