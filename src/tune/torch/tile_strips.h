#pragma once

#include <cstdint>
#include <functional>

#include "formats/tiles.h"

namespace tessera::training {

// Tiles of a matrix side by side: one, or as many as rows of at least kStripWidth weights take.
struct Strip {
  int64_t number = 0;
  int64_t row_begin = 0, row_end = 0;    // of the matrix
  int64_t first_tile = 0;                // its place among all tiles
  int64_t tile_begin = 0, tile_end = 0;  // columns of tiles
};
inline constexpr int64_t kStripWidth = 64;  // rows of whole cache lines, however narrow tiles are

// How a matrix is cut into strips, which does not depend on the number of threads.
class TileStrips {
 public:
  TileStrips(TileShape tile, int64_t rows, int64_t cols);

  int64_t count() const { return tile_rows_ * strips_in_row_; }
  int64_t tiles() const { return tile_rows_ * tile_cols_; }
  int32_t tile_width() const { return tile_.cols; }
  // Calls visit for every strip, on torch's threads.
  void visit(const std::function<void(const Strip&)>& visit) const;
  // The columns of the matrix that a column of tiles takes.
  int64_t begin(int64_t tile_col) const { return tile_col * tile_.cols; }
  int64_t end(int64_t tile_col) const {
    return tile_col + 1 < tile_cols_ ? begin(tile_col + 1) : cols_;
  }

 private:
  TileShape tile_;
  int64_t rows_, cols_;
  int64_t tile_rows_, tile_cols_;
  int64_t tiles_in_strip_, strips_in_row_;
};

}  // namespace tessera::training
