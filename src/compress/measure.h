#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "base/team.h"
#include "compress/matrix.h"
#include "tessera/compress.h"

namespace tessera {

// How many times faster a matrix of a checkpoint is at 128 rows than its dense form, by the median
// of interleaved runs on the team.
Result<double> measure_speedup(const Source& source, const Item& item, Team& team);

// How fast the model in a directory is with so many threads, in passes over about half a second.
// kOutOfMemory where twice its files do not fit into the memory that is free.
Result<ModelSpeed> measure_model(const std::string& directory, int32_t threads);

}  // namespace tessera
