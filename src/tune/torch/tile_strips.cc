#include "tune/torch/tile_strips.h"

#include <ATen/Parallel.h>

#include <algorithm>

namespace tessera::training {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t kStripsOfThread = 16;  // at least

}  // namespace

TileStrips::TileStrips(TileShape tile, int64_t rows, int64_t cols)
    : tile_(tile),
      rows_(rows),
      cols_(cols),
      tile_rows_(ceil_div(rows, tile.rows)),
      tile_cols_(ceil_div(cols, tile.cols)),
      tiles_in_strip_(ceil_div(kStripWidth, tile.cols)),
      strips_in_row_(ceil_div(tile_cols_, tiles_in_strip_)) {}

void TileStrips::visit(const std::function<void(const Strip&)>& visit) const {
  at::parallel_for(0, count(), kStripsOfThread, [&](int64_t first, int64_t last) {
    for (int64_t number = first; number < last; ++number) {
      const int64_t tile_row = number / strips_in_row_;
      const int64_t tile_begin = number % strips_in_row_ * tiles_in_strip_;
      visit({.number = number,
             .row_begin = tile_row * tile_.rows,
             .row_end = std::min(rows_, (tile_row + 1) * tile_.rows),
             .first_tile = tile_row * tile_cols_ + tile_begin,
             .tile_begin = tile_begin,
             .tile_end = std::min(tile_cols_, tile_begin + tiles_in_strip_)});
    }
  });
}

}  // namespace tessera::training
