#pragma once

#include <cstdint>
#include <functional>

#include "base/team.h"

namespace tessera {

// Rows are dealt in blocks of the kernels' register tile, `grain` of them: 6 where nothing is said.
constexpr int64_t kRowGrain = 6;

struct ProductSize {
  int64_t rows = 0;
  int64_t grain = kRowGrain;
  int64_t panels = 0;
};

// Calls work(panels) for the panels of a product that the member does for all rows. Few rows wait
// for memory, which does not serve all members alike: they are dealt, so that none waits for
// another. To multiply more rows takes a part of its time to begin, so that they come at once.
void share_panels(int64_t rows, int64_t panels, const Team::Member& member,
                  const std::function<void(Range)>& work);

// Calls work(rows, panels) for the member's share of a product: some panels with all rows, or,
// where that leaves the busiest member clearly less to do, some rows with some panels.
void share_product(const ProductSize& size, const Team::Member& member,
                   const std::function<void(Range, Range)>& work);

}  // namespace tessera
