#include "model/survivors.h"

#include <algorithm>

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

// Where a row of a set stands in the input.
int64_t origin_of(const RowSet& set, int64_t row) {
  return set.origins.empty() ? row : set.origins[at(row)];
}

void choose(const Execution& e, const RowSet& before, RowSet& set, int32_t layer) {
  e.input.schedule->choose(layer, set.kept);
  for (size_t r = 0; r < set.kept.size(); ++r) {
    set.layout.positions[r] = before.layout.positions[at(set.kept[r])];
    set.origins[r] = static_cast<int32_t>(origin_of(before, set.kept[r]));
  }
}

}  // namespace

void drop_rows(const Execution& e, const LayerPass* before, const LayerPass& layer,
               Team::Member& member) {
  const int32_t set = before == nullptr ? 0 : before->set;
  const RowSet& from = e.pass.sets[at(set)];
  RowSet& to = e.pass.sets[at(layer.set)];
  // Choosing may read what every member found in the layer before.
  member.barrier();
  if (member.rank() == 0) choose(e, from, to, layer.layer);
  member.barrier();
  const int64_t width = e.architecture.hidden_size;
  const float* x = e.scratch.states[set % 2];
  const Range old_rows = member.slice(from.layout.rows()), rows = member.slice(layer.rows);
  auto kept = std::lower_bound(to.kept.begin(), to.kept.end(), old_rows.begin);
  for (int64_t r = old_rows.begin; r < old_rows.end; ++r) {
    if (kept != to.kept.end() && *kept == r) {
      ++kept;
    } else {
      std::copy_n(x + r * width, width, e.scratch.settled + origin_of(from, r) * width);
    }
  }
  for (int64_t r = rows.begin; r < rows.end; ++r)
    std::copy_n(x + to.kept[at(r)] * width, width, e.scratch.states_of(layer) + r * width);
  member.barrier();
}

float* settle_rows(const Execution& e, Team::Member& member) {
  const LayerPass& last = e.pass.layers.back();
  float* x = e.scratch.states_of(last);
  if (last.set == 0) return x;
  member.barrier();
  const RowSet& set = e.pass.sets[at(last.set)];
  const int64_t width = e.architecture.hidden_size;
  const Range rows = member.slice(last.rows);
  for (int64_t r = rows.begin; r < rows.end; ++r)
    std::copy_n(x + r * width, width, e.scratch.settled + origin_of(set, r) * width);
  member.barrier();
  return e.scratch.settled;
}

}  // namespace tessera
