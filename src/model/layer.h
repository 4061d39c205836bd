#pragma once

#include "base/team.h"
#include "model/dealing.h"
#include "model/execution.h"

namespace tessera {

// One layer, by every member of the team at once: the states of its rows become those that leave
// it,
//   h = N(x + s N(A(N(x)))),  y = N(h + s N(F(N(h))))   (attention A, FFN F), or
//   y = x + s N(A(N(x))) + s N(F(N(x)))                 with parallel residuals,
// where each N is the layer's own norm for that place or nothing, and s its residual scale,
// and its keys and values stand in the tables. With shared rows all members have come to its end;
// with own rows each has its own states and nobody has waited.
void run_layer(const Execution& execution, const LayerPass& layer, Team::Member& member);

// What it is made of, in this order. A group's steps read and write the states of its rows.

// Queries, keys and values of a group, where they stand.
void project(const Execution& execution, const Group& group);
// Normalises and rotates their heads, in place, as the architecture has it.
void place(const Execution& execution, const Group& group);
// Writes the keys and values of the member's rows behind those in the pages, and the positions of
// all into the tables.
void append(const Execution& execution, const LayerPass& layer, Team::Member& member);
void attend(const Execution& execution, const LayerPass& layer, Team::Member& member);
// What attention gave goes through the output map into the states.
void leave_attention(const Execution& execution, const Group& group);
// The FFN up to its last map, into the group's `ffn`, and that map into the states. The first half
// comes before leave_attention where residuals are parallel.
void enter_ffn(const Execution& execution, const Group& group);
void leave_ffn(const Execution& execution, const Group& group);

}  // namespace tessera
