#pragma once

#include <cstdint>
#include <optional>
#include <span>

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
// lengths. It stays where it is while the pass runs.
class PrunedPass {
 public:
  PrunedPass(const ModelState& state, const SequenceBatch& batch, const PassReaders& readers);
  PrunedPass(const PrunedPass&) = delete;
  PrunedPass& operator=(const PrunedPass&) = delete;

  // Null where every token enters every layer.
  const RowSchedule* schedule() const { return cascade_ ? &schedule_ : nullptr; }
  // The rows of the batch that the last layer had of a sequence; empty: all.
  std::span<const int32_t> survivors(size_t sequence) const;

 private:
  std::optional<TokenCascade> cascade_;
  RowSchedule schedule_;
};

}  // namespace tessera
