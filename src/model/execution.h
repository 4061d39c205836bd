#pragma once

#include <cstdint>

#include "base/team.h"
#include "base/trace.h"
#include "linear/linear.h"
#include "model/architecture.h"
#include "model/pass.h"
#include "model/rotary_tables.h"
#include "model/scratch.h"
#include "model/weights.h"

namespace tessera {

// A pass while it runs: what the functions of its layers work with. All members of the team share
// it; what a layer writes lies in the scratch memory, the tables and, where rows leave, the sets.
struct Execution {
  const Architecture& architecture;
  const Weights& weights;
  const ForwardInput& input;
  const RotaryTables& rotary;
  PassShape& pass;
  PassScratch& scratch;
  Trace* trace = nullptr;    // null: nothing is counted
  ReadLog* reads = nullptr;  // null: what is read of the cache is not counted
};

// Counts the end of an operation, which all members have come to. `measure` gives its Work and is
// called only where there is a trace.
template <typename Measure>
void mark(Trace* trace, Operation operation, const Team::Member& member, Measure measure) {
  if (trace != nullptr && member.rank() == 0) trace->mark(operation, measure());
}

// A linear map on so many rows: weights are read once, activations read and, where they are added
// to, written once more.
Work work_of(const Linear& linear, int64_t rows);
// So many floats read or written.
Work moved(int64_t floats);
// Keys and values of so many tokens in pages.
double cached_bytes(const PageShape& shape, int64_t tokens);

}  // namespace tessera
