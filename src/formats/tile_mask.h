#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "formats/tiles.h"

namespace tessera {

// Which tiles of a matrix are kept. Every unit of pruning is a tile of some shape: single elements
// are tiles of 1 x 1, whole rows tiles of 1 x cols. The mask is the set of kept tiles, not "what is
// not zero": a kept weight may be 0 and may still be trained.
//   kept: [tile_rows()][tile_cols()], 1 where kept
struct TileMask {
  TileShape tile;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<uint8_t> kept;

  static TileMask all(TileShape tile, int64_t rows, int64_t cols) {
    TileMask mask{tile, rows, cols, {}};
    mask.kept.assign(static_cast<size_t>(mask.tile_rows() * mask.tile_cols()), 1);
    return mask;
  }

  int64_t tile_rows() const { return (rows + tile.rows - 1) / tile.rows; }
  int64_t tile_cols() const { return (cols + tile.cols - 1) / tile.cols; }
  int64_t tiles() const { return tile_rows() * tile_cols(); }
  bool keeps(int64_t tile_row, int64_t tile_col) const {
    return kept[static_cast<size_t>(tile_row * tile_cols() + tile_col)] != 0;
  }
  int64_t kept_tiles() const { return std::count(kept.begin(), kept.end(), 1); }
  // Weights that the kept tiles hold, without what reaches over the edge.
  int64_t kept_weights() const {
    int64_t total = 0;
    for (int64_t r = 0; r < tile_rows(); ++r) {
      const int64_t height = std::min<int64_t>(tile.rows, rows - r * tile.rows);
      for (int64_t c = 0; c < tile_cols(); ++c) {
        if (keeps(r, c)) total += height * std::min<int64_t>(tile.cols, cols - c * tile.cols);
      }
    }
    return total;
  }
};

}  // namespace tessera
