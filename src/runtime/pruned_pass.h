#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/pass.h"
#include "pruning/cascade.h"
#include "runtime/head_pass.h"
#include "runtime/model_state.h"

namespace tessera {

struct PruningRecord;
struct SequenceBatch;

// What reads single tokens when a pass is over; these never leave.
struct PassReaders {
  HeadRows head = HeadRows::kNone;
  std::span<const int32_t> head_rows = {};  // of the batch, with HeadRows::kGiven
  std::span<const Pooling> poolings = {};
  int64_t skipped = 0;  // the first tokens of each sequence, which poolings leave out
};

// What leaves in a pass over sequences of which some are pruned, tokens and heads. It stays where
// it is while the pass runs, and so do layout and ids.
class PrunedPass {
 public:
  // Whole sequences, by the model's schedule.
  PrunedPass(const ModelState& state, const SequenceBatch& batch, const PassReaders& readers);
  // Sequences with tables. cascades and heads: [sequences], which have begun the step; null where
  // every token or head stays. In later steps tables lose what left, so that their pages must be
  // their own (TokenCascade::may_drop).
  PrunedPass(const ModelState& state, std::vector<TokenCascade*> cascades,
             std::vector<HeadCascade*> heads, const TokenLayout& layout,
             std::span<const int32_t> ids);
  PrunedPass(const PrunedPass&) = delete;
  PrunedPass& operator=(const PrunedPass&) = delete;

  // Sets the schedules of a pass: none where every token or head takes part in every layer and
  // nobody observes it.
  void schedule(ForwardInput& input) const;
  // Positions of a sequence that the last layer had; empty: all.
  std::span<const int32_t> survivors(size_t sequence) const;

 private:
  void make_schedule();
  void choose(int32_t layer, std::span<int32_t> kept);
  void enter(int32_t layer, std::span<PageTable* const> tables);
  void observe(int32_t layer, std::span<const AttentionSequence> sequences);
  // Tells the observer what the layer had of a sequence.
  void report(int32_t layer, size_t s, const AttentionSequence& sequence);
  void report_heads(const HeadCascade& heads, int32_t layer, PruningRecord& record);

  const ModelState& state_;
  const TokenLayout& layout_;
  std::span<const int32_t> ids_;
  std::vector<TokenCascade> own_;  // of whole sequences
  std::vector<TokenCascade*> cascades_;
  bool is_pruned_ = false;
  CascadeScratch scratch_;
  std::vector<int32_t> rows_;           // [sequences]: that entered the layer before
  std::vector<uint8_t> leaves_;         // of the keys of a table
  std::vector<float> importance_;       // of the tokens alive, for the observer
  std::vector<int32_t> alive_heads_;    // of one sequence, likewise
  std::vector<float> head_importance_;  // of these
  HeadPass heads_;
  RowSchedule schedule_;
};

}  // namespace tessera
