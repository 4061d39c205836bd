#include "linear/tile_shares.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

constexpr double kTileRows = 24;
// Rows that a flatter register tile takes no less time than, as its sums wait for each other.
constexpr double kLeastTile = 8;

double density(const TilePattern& pattern, int64_t inputs) {
  const auto row = static_cast<double>((inputs + pattern.shape.inputs - 1) / pattern.shape.inputs);
  return static_cast<double>(pattern.blocks.size()) /
         (row * static_cast<double>(pattern.panels.size()));
}

}  // namespace

TileShares::Share TileShares::share(int64_t rows, std::span<const TilePanel> panels,
                                    const Team::Member& member) const {
  const Grid grid = choose_grid(rows, panels, member.size());
  const int part = member.rank() % grid.panel_parts;
  return {slice(rows, 1, member.rank() / grid.panel_parts, grid.row_parts),
          {cut(panels, part, grid.panel_parts), cut(panels, part + 1, grid.panel_parts)}};
}

double TileShares::part_of(const Subset& outputs) const {
  if (outputs.is_all() || pattern_.blocks.empty()) return 1;
  int64_t blocks = 0;
  for_each_live(outputs, [&](size_t i) { blocks += blocks_of({&pattern_.panels[i], 1}); });
  return static_cast<double>(blocks) / static_cast<double>(pattern_.blocks.size());
}

double TileShares::cost(int64_t rows, double blocks, double panels) const {
  const double tiles = std::ceil(static_cast<double>(rows) / kTileRows);
  const double height = static_cast<double>(rows) / tiles;
  const double lines = static_cast<double>((inputs_ + 15) / 16);
  const double work = tiles * std::max(height + 1, kLeastTile);
  return std::max(work, costs_.read) * blocks + work * costs_.panel * panels +
         costs_.packed_line * static_cast<double>(rows) * lines;
}

// The grid whose members have least to do: to deal rows packs x once (128 rows on two threads: a
// twentieth of the time at 90% pruned), to deal panels reads each weight once. Where these are
// alike rows are dealt, as packing costs something however little was measured.
TileShares::Grid TileShares::choose_grid(int64_t rows, std::span<const TilePanel> panels,
                                         int members) const {
  Grid best{1, members};
  const double blocks = work_of(blocks_of(panels));
  double least = 0;
  for (int row_parts = 1; row_parts <= members; ++row_parts) {
    if (members % row_parts != 0 || (row_parts > 1 && rows / row_parts < least_rows_)) continue;
    const double panel_parts = members / row_parts;
    const double load = cost((rows + row_parts - 1) / row_parts, blocks / panel_parts,
                             static_cast<double>(panels.size()) / panel_parts);
    if (row_parts > 1 && load > least) continue;
    best = {row_parts, members / row_parts};
    least = load;
  }
  return best;
}

double TileShares::work_of(int64_t blocks) const {
  return static_cast<double>(blocks) * pattern_.shape.inputs / 16;
}

// Where part `part` of the panels begins when they are dealt by equal work.
int64_t TileShares::cut(std::span<const TilePanel> panels, int part, int parts) const {
  const auto count = static_cast<int64_t>(panels.size());
  if (part == parts) return count;
  const double total = work_of(blocks_of(panels)) + costs_.panel * static_cast<double>(count);
  const double target = total * part / parts;
  int64_t blocks = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (work_of(blocks) + costs_.panel * static_cast<double>(i) >= target) return i;
    const TilePanel& panel = panels[static_cast<size_t>(i)];
    blocks += panel.end - panel.begin;
  }
  return count;
}

LinearInfo tile_info(const TileStack& stack, const TilePattern& pattern, const char* numbers) {
  LinearInfo info;
  info.inputs = stack.front().inputs();
  const TileShape tile = stack.front().tile;
  info.format = fmt::format("tiles {}x{} {}, {:.0f}% pruned", tile.rows, tile.cols, numbers,
                            100 * (1 - density(pattern, info.inputs)));
  for (const TileMatrix& matrix : stack) info.outputs += matrix.outputs();
  info.flops_per_row = 2 * pattern.values();
  info.dense_flops_per_row = 2 * info.inputs * info.outputs;
  return info;
}

}  // namespace tessera
