#include "linear/grid.h"

namespace tessera {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

Grid choose_grid(int64_t rows, int64_t grain, int64_t panels, int members) {
  Grid best{1, members};
  const auto load = [&](const Grid& grid) {
    return static_cast<double>(ceil_div(ceil_div(rows, grain), grid.row_parts) *
                               ceil_div(panels, grid.panel_parts));
  };
  double least = load(best);
  for (int row_parts = 2; row_parts <= members; ++row_parts) {
    if (members % row_parts != 0) continue;
    const Grid grid{row_parts, members / row_parts};
    if (load(grid) < 0.95 * least) {
      best = grid;
      least = load(grid);
    }
  }
  return best;
}

}  // namespace tessera
