#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pruning/schedule.h"

namespace tessera {

// A sequence that runs whole, with nothing before it.
struct CascadeSequence {
  int32_t first_row = 0;  // in the batch
  int32_t tokens = 0;
  std::vector<int32_t> kept_rows = {};  // of the batch, ascending: never leave
};

// Which queries see a key.
struct QueryReach {
  bool is_causal = false;
  int32_t window = 0;  // above 0: those less than so many tokens behind it
};

// The tokens of a batch on their way through the layers: how important each has been so far, and
// which stay. In layer l token j of sequence s has, of the tokens alive there,
//   s_j <- decay s_j + sum_h sum_q P[h,q,j] (/ queries that see j)
// A layer keeps those of largest s_j, of equals the first ones, in their order. Sequences do not
// depend on each other. Nothing allocates or throws once it is made.
class TokenCascade {
 public:
  // lengths: [layer][sequence], as tokens_kept gives them.
  TokenCascade(const PruningSchedule& schedule, std::vector<CascadeSequence> sequences,
               std::vector<std::vector<int32_t>> lengths);

  const std::vector<std::vector<int32_t>>& lengths() const { return lengths_; }
  // Importance is of use in layers below this one, the last that tokens leave in front of.
  int32_t scored_layers() const { return scored_layers_; }
  // mass: [heads, alive], what each token of the sequence was attended to in a layer.
  void add(size_t sequence, const float* mass, int32_t heads, QueryReach reach);
  // Writes the places of the rows that stay in the layer, lengths()[layer] of each sequence, among
  // the rows of the layer before; they are the ones alive from then on.
  void choose(int32_t layer, std::span<int32_t> kept);
  // The rows of the batch that are alive, ascending.
  std::span<const int32_t> alive(size_t sequence) const { return states_[sequence].rows; }
  // [alive], as their importance is so far.
  std::span<const float> importance(size_t sequence) const { return states_[sequence].scores; }

 private:
  struct State {
    std::vector<int32_t> rows;
    std::vector<float> scores;
    std::vector<int32_t> kept_rows;
  };
  // The places, among the alive ones, of those that stay: [count].
  std::span<const int32_t> survivors(const State& state, int32_t count);

  double decay_;
  ImportanceScale scale_;
  std::vector<State> states_;
  std::vector<std::vector<int32_t>> lengths_;
  int32_t scored_layers_ = 0;
  std::vector<float> keys_;  // of one sequence
  std::vector<int32_t> places_, scratch_;
};

}  // namespace tessera
