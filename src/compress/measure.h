#pragma once

#include "base/status.h"
#include "base/team.h"
#include "compress/matrix.h"

namespace tessera {

// How many times faster a matrix of a checkpoint is at 128 rows than its dense form, by the median
// of interleaved runs on the team.
Result<double> measure_speedup(const Source& source, const Item& item, Team& team);

}  // namespace tessera
