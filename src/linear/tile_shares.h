#pragma once

#include <string>

#include "base/team.h"
#include "formats/tile_panels.h"
#include "linear/linear.h"

// What the maps of tile-pruned matrices share, whatever their numbers.
namespace tessera {

// Costs of a kernel in units of one block times one row, of which a register tile takes as many as
// its rows and one for the weights.
struct TileCosts {
  double least_tile;   // of a flat tile, whose sums wait for each other
  double read;         // to read a block's weights from beyond L2
  double panel;        // a panel's epilogue, in blocks
  double packed_line;  // to pack 16 inputs of a row
  int64_t least_rows;  // so many rows at least are dealt to a member
};

// How the members of a team share a product: a grid of row parts and panel parts.
class TileShares {
 public:
  TileShares(const TilePattern& pattern, int64_t inputs, TileCosts costs)
      : pattern_(pattern), inputs_(inputs), costs_(costs) {}

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
};

// What a stack of tiles is and what is executed of it; numbers: "f32".
LinearInfo tile_info(const TileStack& stack, const TilePattern& pattern, const char* numbers);

}  // namespace tessera
