#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "model/pass.h"
#include "pruning/cascade.h"
#include "runtime/model_state.h"

namespace tessera {

struct SequenceBatch;

// What reads single tokens when a pass is over; these never leave.
struct PassReaders {
  HeadRows head = HeadRows::kNone;
  std::span<const int32_t> head_rows = {};  // of the batch, with HeadRows::kGiven
  std::span<const Pooling> poolings = {};
  int64_t skipped = 0;  // the first tokens of each sequence, which poolings leave out
};

// The schedule of a pass over whole sequences, as the model's pruning schedule makes it of their
// lengths. It stays where it is while the pass runs, and so does the batch.
class PrunedPass {
 public:
  PrunedPass(const ModelState& state, const SequenceBatch& batch, const PassReaders& readers);
  PrunedPass(const PrunedPass&) = delete;
  PrunedPass& operator=(const PrunedPass&) = delete;

  // Null where every token enters every layer and nobody observes it.
  const RowSchedule* schedule() const { return cascade_ ? &schedule_ : nullptr; }
  // The rows of the batch that the last layer had of a sequence; empty: all.
  std::span<const int32_t> survivors(size_t sequence) const;

 private:
  // What the layer had of each sequence.
  void report(int32_t layer);

  const SequenceBatch& batch_;
  PruningObserver* observer_;  // null: none
  int64_t first_number_ = 0;   // of the sequences, as the observer counts them
  std::optional<TokenCascade> cascade_;
  RowSchedule schedule_;
  std::vector<int32_t> positions_;  // of one sequence, for the observer
};

}  // namespace tessera
