#include "linear/grid.h"

namespace tessera {
namespace {

constexpr int64_t kMostDealtRows = 4;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How the members of a team share a product: a grid of row parts and panel parts.
struct Grid {
  int row_parts = 1;
  int panel_parts = 1;
};

// The grid whose busiest member has least to do. Dealing panels only reads each weight once, so a
// grid that deals rows must beat it by a twentieth.
Grid choose_grid(const ProductSize& size, int members) {
  Grid best{1, members};
  const auto load = [&](const Grid& grid) {
    return static_cast<double>(ceil_div(ceil_div(size.rows, size.grain), grid.row_parts) *
                               ceil_div(size.panels, grid.panel_parts));
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

}  // namespace

void share_panels(int64_t rows, int64_t panels, const Team::Member& member,
                  const std::function<void(Range)>& work) {
  const Range own = member.slice(panels);
  if (rows <= kMostDealtRows) {
    member.deal(own, work);
  } else if (own.size() > 0) {
    work(own);
  }
}

void share_product(const ProductSize& size, const Team::Member& member,
                   const std::function<void(Range, Range)>& work) {
  if (size.rows == 0) return;
  const Grid grid = choose_grid(size, member.size());
  if (grid.row_parts == 1) {
    return share_panels(size.rows, size.panels, member, [&](Range panels) {
      work({0, size.rows}, panels);
    });
  }
  const int column = member.rank() % grid.panel_parts;
  const Range rows = slice(size.rows, size.grain, member.rank() / grid.panel_parts, grid.row_parts);
  const Range panels = slice(size.panels, 1, column, grid.panel_parts);
  if (rows.size() > 0 && panels.size() > 0) work(rows, panels);
}

}  // namespace tessera
