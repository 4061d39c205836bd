#pragma once

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
  Share share(int64_t rows, const Team::Member& member) const;
  Share whole(int64_t rows) const { return {{0, rows}, {0, panels()}}; }

 private:
  struct Grid {
    int row_parts = 1;
    int panel_parts = 1;
  };

  double work_of(int64_t blocks) const;  // in blocks of 16 inputs
  int64_t panels() const { return static_cast<int64_t>(pattern_.panels.size()); }
  double cost(int64_t rows, double blocks, double panels) const;
  Grid choose_grid(int64_t rows, int members) const;
  int64_t cut(int part, int parts) const;

  const TilePattern& pattern_;
  int64_t inputs_;
  TileCosts costs_;
  int64_t least_rows_;
};

// What a stack of tiles is and what is executed of it; numbers: "f32".
LinearInfo tile_info(const TileStack& stack, const TilePattern& pattern, const char* numbers);

}  // namespace tessera
