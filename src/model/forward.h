#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/arena.h"
#include "base/team.h"
#include "base/trace.h"
#include "model/architecture.h"
#include "model/execution.h"
#include "model/pass.h"
#include "model/rotary_tables.h"
#include "model/weights.h"
#include "plan/plan.h"

namespace tessera {

struct ForwardOutput {
  std::span<const float> logits;  // [head rows, width], the executor's until its next pass
  int32_t width = 0;
  // Set the pointers to receive [rows, hidden_size]: the last layer's states (behind the final
  // norm), or those in front of the first layer and behind every one.
  std::vector<float>* last_hidden = nullptr;
  std::vector<std::vector<float>>* all_hidden = nullptr;  // not where rows leave
};

// Executes a model on a team of threads as its Plan says. One pass at a time.
class Executor {
 public:
  Executor(const Architecture& architecture, const Weights& weights, const Plan& plan, Team& team);

  Status run(const ForwardInput& input, ForwardOutput& output);
  // Counts the passes from now on; null: none. The trace is the caller's.
  void set_trace(Trace* trace) { trace_ = trace; }
  // Adds what generated tokens read of the cache from now on; null: nothing. The log is the
  // caller's.
  void set_reads(ReadLog* reads) { reads_ = reads; }

 private:
  const Architecture& architecture_;
  const Weights& weights_;
  const Plan& plan_;
  Team& team_;
  RotaryTables rotary_;
  Trace* trace_ = nullptr;
  ReadLog* reads_ = nullptr;
  Arena arena_;
};

}  // namespace tessera
