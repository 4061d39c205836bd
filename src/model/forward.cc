#include "model/forward.h"

#include <algorithm>

#include "model/embedding.h"
#include "model/head.h"
#include "model/layer.h"
#include "model/normalise.h"
#include "model/survivors.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

// One pass on its way: what a member of the team does from the ids to the logits.
class Loop {
 public:
  Loop(const Execution& execution, ForwardOutput& output) : e_(execution), output_(output) {
    const ForwardInput& input = e_.input;
    if (input.states.empty()) {
      embedding_ = {.ids = input.ids, .type_ids = input.type_ids};
      position_rows_ = position_rows(e_.architecture, e_.weights, input.ids, e_.pass.input());
      embedding_.position_rows = position_rows_;
    }
    const size_t hidden = at(e_.pass.rows() * e_.architecture.hidden_size);
    if (output.last_hidden != nullptr) output.last_hidden->resize(hidden);
    if (output.all_hidden != nullptr)
      output.all_hidden->assign(e_.pass.layers.size() + 1, std::vector<float>(hidden));
  }

  void run(Team::Member& member) const {
    enter(member);
    const LayerPass* before = nullptr;
    for (const LayerPass& layer : e_.pass.layers) {
      step_into(before, layer, member);
      keep_entering(layer, member);
      run_layer(e_, layer, member);
      before = &layer;
    }
    float* states = settle_rows(e_, member);
    finish(states, member);
    if (!e_.pass.ends_with_head) return;
    member.barrier();
    run_head(e_, states, member);
  }

 private:
  // The member's rows as they enter the first layer.
  void enter(Team::Member& member) const {
    const Range rows = rows_of(e_.pass.rows(), member);
    const int64_t width = e_.architecture.hidden_size;
    float* x = e_.scratch.states[0];
    if (!e_.input.states.empty()) {
      const float* given = e_.input.states.data();
      std::copy(given + rows.begin * width, given + rows.end * width, x + rows.begin * width);
      return;
    }
    embed(e_.architecture, e_.weights, embedding_, rows, x);
  }

  // Between layers: members that have their own rows go on at once where these stay theirs.
  void step_into(const LayerPass* before, const LayerPass& layer, Team::Member& member) const {
    const bool rows_leave = layer.set != (before == nullptr ? 0 : before->set);
    if (rows_leave) {
      drop_rows(e_, before, layer, member);
    } else if (before == nullptr || before->dealing == Dealing::kOwn) {
      meet(layer, member);
    }
    if (before != nullptr || !e_.input.states.empty()) return;
    mark(e_.trace, Operation::kEmbedding, member,
         [&] { return moved(2 * e_.pass.rows() * e_.architecture.hidden_size); });
  }

  void finish(float* states, Team::Member& member) const {
    const Range rows = rows_of(e_.pass.rows(), member);
    const int64_t width = e_.architecture.hidden_size;
    if (e_.pass.ends_with_head && !e_.weights.final_norm.empty()) {
      normalise(e_.architecture, e_.weights.final_norm, states, states, rows);
      mark(e_.trace, Operation::kNorm, member, [&] { return moved(2 * e_.pass.rows() * width); });
    }
    keep(states, e_.pass.layers.size(), member);
    if (output_.last_hidden == nullptr) return;
    std::copy(states + rows.begin * width, states + rows.end * width,
              output_.last_hidden->data() + rows.begin * width);
  }

  // Rows that left have the states that they left with.
  void keep_entering(const LayerPass& layer, Team::Member& member) const {
    const size_t index = at(layer.layer - e_.pass.first_layer);
    if (layer.set == 0) keep(e_.scratch.states_of(layer), index, member);
    if (layer.set == 0 || output_.all_hidden == nullptr) return;
    const std::vector<int32_t>& origins = e_.pass.set_of(layer).origins;
    const int64_t width = e_.architecture.hidden_size;
    float* target = (*output_.all_hidden)[index].data();
    const Range alive = rows_of(layer.rows, member), rows = rows_of(e_.pass.rows(), member);
    for (int64_t r = alive.begin; r < alive.end; ++r)
      std::copy_n(e_.scratch.states_of(layer) + r * width, width, target + origins[at(r)] * width);
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      if (!std::binary_search(origins.begin(), origins.end(), r))
        std::copy_n(e_.scratch.settled + r * width, width, target + r * width);
    }
  }

  void keep(const float* states, size_t index, Team::Member& member) const {
    if (output_.all_hidden == nullptr) return;
    const Range rows = rows_of(e_.pass.rows(), member);
    const int64_t width = e_.architecture.hidden_size;
    std::copy(states + rows.begin * width, states + rows.end * width,
              (*output_.all_hidden)[index].data() + rows.begin * width);
  }

  const Execution& e_;
  ForwardOutput& output_;
  Embedding embedding_;
  std::vector<int32_t> position_rows_;
};

}  // namespace

Executor::Executor(const Architecture& architecture, const Weights& weights, const Plan& plan,
                   Team& team)
    : architecture_(architecture),
      weights_(weights),
      plan_(plan),
      team_(team),
      rotary_(architecture) {}

Status Executor::run(const ForwardInput& input, ForwardOutput& output) {
  TESSERA_ASSIGN_OR_RETURN(PassShape pass,
                           shape_of_pass(input, architecture_, plan_, team_.size()));
  TESSERA_RETURN_IF_ERROR(rotary_.prepare(input));
  TESSERA_ASSIGN_OR_RETURN(PassScratch scratch,
                           carve(scratch_sizes(pass, input, architecture_, weights_, team_.size()),
                                 pass, input, team_.size(), arena_));
  if (input.heads != nullptr) {
    scratch.live.prepare(pass, input, architecture_, weights_);
    link_heads(pass, scratch);
  }
  if (input.schedule != nullptr) link_masses(pass, *input.schedule, weights_, scratch);
  const bool schedule_counts = input.schedule != nullptr && input.schedule->counts_reads;
  if (reads_ != nullptr || schedule_counts) link_reads(pass, weights_, scratch);
  const Execution execution{architecture_, weights_, input, rotary_, pass, scratch, trace_, reads_};
  const Loop loop(execution, output);
  if (trace_ != nullptr) trace_->begin();
  team_.run([&](Team::Member& member) { loop.run(member); });
  output.width = pass.head_row_count > 0 ? static_cast<int32_t>(weights_.head.outputs) : 0;
  output.logits = {scratch.logits, at(pass.head_row_count * output.width)};
  return {};
}

}  // namespace tessera
