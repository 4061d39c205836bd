#pragma once

#include "base/team.h"
#include "model/execution.h"

namespace tessera {

// In front of a layer that fewer rows enter than the one before, or than the input has where there
// is none before (null): has the rows chosen that stay
// (RowSchedule::choose), moves their states together and keeps the last states of the others.
// Every member calls it, and all have come to its end.
void drop_rows(const Execution& execution, const LayerPass* before, const LayerPass& layer,
               Team::Member& member);

// The states of all rows of the input behind the last layer, [rows, hidden_size]: rows that left
// have those that they left with. Where some did, all members have come to its end.
float* settle_rows(const Execution& execution, Team::Member& member);

}  // namespace tessera
