#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/arena.h"
#include "base/team.h"
#include "base/trace.h"
#include "formats/token_layout.h"
#include "model/architecture.h"
#include "model/weights.h"
#include "plan/plan.h"

namespace tessera {

// Which rows the model's head is applied to.
enum class HeadRows { kNone, kAll, kLastOfEach, kFirstOfEach, kGiven };

struct ForwardInput {
  std::span<const int32_t> ids;       // [rows]
  std::span<const int32_t> type_ids;  // [rows], or empty: all 0
  const TokenLayout* layout = nullptr;
  // [layer][sequence]: page tables that hold what came before and have pages for the new rows; the
  // pass appends to them. Empty: there is nothing before, and keys and values live for the pass
  // only.
  std::span<PageTable* const> tables;
  HeadRows head_rows = HeadRows::kNone;
  std::span<const int32_t> given_head_rows;  // of kGiven
};

struct ForwardOutput {
  std::span<const float> logits;  // [head rows, width], the executor's until its next pass
  int32_t width = 0;
  // Set the pointers to receive [rows, hidden_size]: the last layer's states (after the final
  // norm), or those of every layer with the embeddings first.
  std::vector<float>* last_hidden = nullptr;
  std::vector<std::vector<float>>* all_hidden = nullptr;
};

// Executes a model on a team of threads as its Plan says. One pass at a time.
class Executor {
 public:
  Executor(const Architecture& architecture, const Weights& weights, const Plan& plan, Team& team);

  Status run(const ForwardInput& input, ForwardOutput& output);
  // Counts the passes from now on; null: none. The trace is the caller's.
  void set_trace(Trace* trace) { trace_ = trace; }

 private:
  struct Pass;
  struct Group;
  struct Sizes;

  Sizes sizes(int64_t rows, int32_t max_length, int32_t max_keys, int64_t head_rows) const;
  int64_t scratch_bytes(const Sizes& sizes) const;
  int64_t most_bytes(int64_t (Linear::*bytes)(int64_t) const, int64_t rows,
                     int64_t head_rows) const;
  Status prepare(const ForwardInput& input, ForwardOutput& output, Pass& pass);
  int32_t last_row(const Pass& pass, int64_t sequence) const;
  void measure(Pass& pass) const;
  Status carve(Pass& pass);
  Status extend_rotary_tables(int32_t positions);
  void make_transient_tables(Pass& pass);
  void enter_positions(Pass& pass);
  void prepare_attention(Pass& pass);
  void find_position_rows(Pass& pass) const;

  // How the rows of a pass are dealt.
  int64_t hidden_size() const;
  int64_t ffn_stride() const;
  bool deals_own_rows(int64_t rows) const;
  int64_t group_rows() const;
  Range rows_of(const Pass& pass, const Team::Member& member) const;
  template <typename Work>
  void for_each_group(Pass& pass, Team::Member& member, Work work) const;
  void meet(const Pass& pass, Team::Member& member) const;

  void embed(const Pass& pass, Range rows) const;
  void run_layer(Pass& pass, int32_t layer, Team::Member& member) const;
  void project(const Group& group, int32_t layer) const;
  void place_heads(Pass& pass, int32_t layer, Range rows) const;
  void append_keys(Pass& pass, int32_t layer, Team::Member& member) const;
  void attend(Pass& pass, int32_t layer, Team::Member& member) const;
  void leave_attention(const Group& group, int32_t layer) const;
  void ffn_block(const Group& group, int32_t layer) const;
  void gate(const Group& group) const;
  void finish(const Pass& pass, Range rows, const Team::Member& member) const;
  void head(Pass& pass, Team::Member& member) const;

  const float* enter_block(const NormWeights& norm, const Group& group) const;
  void leave_block(const NormWeights& norm, const Group& group) const;
  void normalise_group(const NormWeights& norm, float* target, const Group& group) const;
  void normalise(const NormWeights& weights, const float* x, float* y, Range rows) const;
  void* linear_scratch(const Pass& pass, const Team::Member& member) const;
  void multiply(const Linear& linear, LinearArgs args, Operation operation,
                const Group& group) const;
  void keep_hidden(const Pass& pass, size_t index, Range rows) const;

  // Ends an operation after its barrier.
  template <typename Measure>
  void mark(Operation operation, const Team::Member& member, Measure work) const;
  int64_t traced_rows(const Group& group) const;
  Work attention_work(const Pass& pass, int32_t layer) const;

  const Architecture& architecture_;
  const Weights& weights_;
  const Plan& plan_;
  Team& team_;
  Trace* trace_ = nullptr;
  Arena arena_;
  std::vector<float> cosines_;
  std::vector<float> sines_;
  int32_t rotary_positions_ = 0;
};

}  // namespace tessera
