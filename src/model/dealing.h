#pragma once

#include <cstdint>

#include "base/team.h"
#include "base/trace.h"
#include "linear/linear.h"
#include "model/execution.h"
#include "model/pass.h"

namespace tessera {

// Rows that a member takes through a part of a layer: a group of its own, whose products it does
// alone, or its share of all, whose products it does with the others.
struct Group {
  const LayerPass* layer = nullptr;
  Team::Member* member = nullptr;
  Range rows;         // of the element-wise work
  int64_t first = 0;  // row of the products, and the row that `ffn` begins with
  int64_t count = 0;  // rows of the products
  float* ffn = nullptr;
};

// The rows that are a member's in all that is done row by row, however a layer deals its products.
Range rows_of(int64_t rows, const Team::Member& member);

// A member's groups of a layer: with own rows groups of like size, so that the last one is not a
// remnant; else its one share.
template <typename Work>
void for_each_group(const Execution& execution, const LayerPass& layer, Team::Member& member,
                    Work work) {
  const Range own = rows_of(layer.rows, member);
  if (layer.dealing == Dealing::kShared) {
    work(Group{&layer, &member, own, 0, layer.rows, execution.scratch.ffn});
    return;
  }
  float* ffn = execution.scratch.ffn + member.rank() * layer.group_rows * layer.ffn_width;
  const int64_t groups = (own.size() + layer.group_rows - 1) / layer.group_rows;
  for (int64_t i = 0; i < groups; ++i) {
    const Range part = slice(own.size(), kRowGrain, static_cast<int>(i), static_cast<int>(groups));
    const Range rows{own.begin + part.begin, own.begin + part.end};
    if (rows.size() > 0) work(Group{&layer, &member, rows, rows.begin, rows.size(), ffn});
  }
}

// Ends row-wise work before the products of a layer read it: those of shared rows read everybody's.
void meet(const LayerPass& layer, Team::Member& member);

// One product of a group, by its member or, ending with a meeting, by all. The pointers in `args`
// are those of the group's first row; rows and working memory are filled in. Of the operations that
// heads are the outputs or the inputs of, only what is alive.
void multiply(const Execution& execution, const Group& group, const Linear& linear, LinearArgs args,
              Operation operation);

// Rows that the whole team has behind it when the member that marks is done with its group.
int64_t traced_rows(const Group& group);

}  // namespace tessera
