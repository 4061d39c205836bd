#pragma once

#include <span>
#include <string>

#include "base/team.h"
#include "formats/tile_panels.h"
#include "linear/choice.h"
#include "linear/linear.h"

// What the maps of tile-pruned matrices share, whatever their numbers.
namespace tessera {

// How the members of a team share a product: a grid of row parts and panel parts. least_rows: so
// many at least are dealt to a member.
class TileShares {
 public:
  TileShares(const TilePattern& pattern, int64_t inputs, TileCosts costs, int64_t least_rows)
      : pattern_(pattern), inputs_(inputs), costs_(costs), least_rows_(least_rows) {}

  struct Share {
    Range rows;
    Range panels;
  };
  Share share(int64_t rows, const Team::Member& member) const {
    return share(rows, pattern_.panels, member);
  }
  // Of some of the panels, by their places among these.
  Share share(int64_t rows, std::span<const TilePanel> panels, const Team::Member& member) const;

  // Calls take(panel) for those of the pattern's panels of which outputs are asked for.
  template <typename Take>
  void for_each_live(const Subset& outputs, Take take) const {
    auto range = outputs.ranges.begin();
    for (size_t i = 0; i < pattern_.panels.size(); ++i) {
      const TilePanel& panel = pattern_.panels[i];
      const int64_t first = outputs.origin + panel.output;
      while (range != outputs.ranges.end() && range->end <= first) ++range;
      if (range == outputs.ranges.end()) return;
      if (range->begin < first + panel.outputs) take(i);
    }
  }
  // The part of the blocks that these panels have.
  double part_of(const Subset& outputs) const;

 private:
  struct Grid {
    int row_parts = 1;
    int panel_parts = 1;
  };

  double work_of(int64_t blocks) const;  // in blocks of 16 inputs
  double cost(int64_t rows, double blocks, double panels) const;
  Grid choose_grid(int64_t rows, std::span<const TilePanel> panels, int members) const;
  int64_t cut(std::span<const TilePanel> panels, int part, int parts) const;

  const TilePattern& pattern_;
  int64_t inputs_;
  TileCosts costs_;
  int64_t least_rows_;
};

inline int64_t blocks_of(std::span<const TilePanel> panels) {
  int64_t blocks = 0;
  for (const TilePanel& panel : panels) blocks += panel.end - panel.begin;
  return blocks;
}

// What a stack of tiles is and what is executed of it; numbers: "f32".
LinearInfo tile_info(const TileStack& stack, const TilePattern& pattern, const char* numbers);

}  // namespace tessera
