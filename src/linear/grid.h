#pragma once

#include <cstdint>

namespace tessera {

// How the members of a team share a product: a grid of row parts and panel parts.
struct Grid {
  int row_parts = 1;
  int panel_parts = 1;
};

// Rows are dealt in blocks of the kernels' register tile, `grain` of them: 6 where nothing is said.
constexpr int64_t kRowGrain = 6;

// The grid whose busiest member has least to do. Dealing panels only reads each weight once, so a
// grid that deals rows must beat it by a twentieth.
Grid choose_grid(int64_t rows, int64_t grain, int64_t panels, int members);

}  // namespace tessera
