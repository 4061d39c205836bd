#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pruning/schedule.h"

namespace tessera {

// Which queries see a key.
struct QueryReach {
  bool is_causal = false;
  int32_t window = 0;  // above 0: those less than so many tokens behind it
};

// What the keys of a sequence were attended to in a layer.
struct KeyMass {
  const float* mass = nullptr;  // [heads, keys]: sums over the queries
  int32_t heads = 0;
  std::span<const int32_t> keys = {};     // positions, in any order
  std::span<const int32_t> queries = {};  // positions, ascending
  QueryReach reach = {};
};

// Memory of a pass for the cascades of its sequences, one at a time.
struct CascadeScratch {
  std::vector<float> sums;
  std::vector<int32_t> places, of_top_k;

  void fit(int32_t tokens);
};

// What a sequence is: a text that runs once, whole, or a prompt to which tokens are added.
enum class CascadeKind { kText, kPrompt };

// The tokens of a sequence on their way through layers and steps (SpAtten, section III.A): how
// important each has been so far, and where it is alive. Step 0 runs the text or prompt, step t the
// token behind it. With A(l,t) the tokens alive in layer l of step t, of which layer 0 of step 0
// has all:
//   candidates = A(l-1,t) intersected with (A(l,t-1) and the new tokens);
//   A(l,t) = those k_l of largest s, of equals the first ones; what is protected and, of a prompt,
//   the newest token stay in any case;
//   s_j <- decay s_j + sum_h sum_q P[h,q,j] (/ queries that see j), once layer l has attended.
//   k_l = max(floor(share_l * base), minimum), or the count that the schedule has.
// A prompt that is only scored, or not even that, keeps all in step 0, and the latter in step 1,
// too. So what has left a layer never comes back to it or to a later one. Importance and the
// layers of a token are kept by position. A copy goes on by itself. Nothing allocates or throws
// between begin() and the end of the pass.
class TokenCascade {
 public:
  // The schedule stays where it is.
  TokenCascade(const PruningSchedule& schedule, const ScheduledModel& model, CascadeKind kind);

  // Begins the step of these tokens, which stand behind `before` others: step 0 where that is 0,
  // else of one token. kept: positions of the sequence that never leave, beside those that the
  // schedule protects. A step that did not run may be begun anew.
  void begin(int32_t before, std::span<const int32_t> ids, std::span<const int32_t> kept = {});
  bool is_first_step() const { return step() == 0; }
  int32_t step() const { return tokens() - first_tokens_; }
  int32_t tokens() const { return static_cast<int32_t>(scores_.size()); }  // with the step's
  // [layer]: how many tokens are alive in the step; of step 0 exactly, else at most.
  const std::vector<int32_t>& lengths() const { return lengths_; }
  // Whether the step may take tokens out of the layer that were alive there.
  bool may_drop(int32_t layer) const;
  // Whether the step counts towards importance, which is of use in layers below scored_layers().
  bool is_scored() const;
  int32_t scored_layers() const;

  // To be called in front of each layer in turn, but in step 0 only of those that fewer tokens
  // enter. Gives the places of those that stay among those alive before, in step 0.
  std::span<const int32_t> choose(int32_t layer, CascadeScratch& scratch);
  void add(const KeyMass& found, CascadeScratch& scratch);

  // Positions alive in the layer that was chosen last, ascending.
  std::span<const int32_t> alive() const { return alive_; }
  bool is_alive(int32_t position, int32_t layer) const { return layers_of_[at(position)] > layer; }
  int32_t protected_tokens() const;
  float importance(int32_t position) const { return scores_[at(position)]; }

  // What whoever observes the sequence calls it; below 0: nothing yet, as a copy is to be.
  void set_number(int64_t number) { number_ = number; }
  int64_t number() const { return number_; }

 private:
  static constexpr size_t at(int32_t index) { return static_cast<size_t>(index); }
  void forget_behind(int32_t tokens);
  void protect(int32_t before, std::span<const int32_t> ids, std::span<const int32_t> kept);
  void count();
  bool keeps_all_in(int32_t layer) const;
  bool stays(int32_t position) const;

  const PruningSchedule* schedule_;
  ScheduledModel model_;
  CascadeKind kind_;
  int64_t number_ = -1;
  int32_t first_tokens_ = 0;  // of step 0
  int32_t newest_ = 0;        // from this position on tokens stay in this step
  // [positions]
  std::vector<float> scores_;
  std::vector<int32_t> layers_of_;  // in which the token is alive: the first ones
  std::vector<uint8_t> kept_;       // never leaves
  std::vector<int32_t> held_;       // [layer]: tokens alive there after the step before
  std::vector<int32_t> lengths_;
  std::vector<int32_t> entered_;  // positions alive in layer 0
  std::vector<int32_t> alive_;
};

// The most tokens that are alive in each layer in any step of a prompt that is continued to so many
// tokens in all.
std::vector<int32_t> most_alive(const PruningSchedule& schedule, const ScheduledModel& model,
                                std::span<const int32_t> prompt_ids, int32_t tokens);

}  // namespace tessera
