#include "formats/tiles.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "formats/checks.h"

namespace tessera {
namespace {

// The part of a tile that lies in the matrix.
struct Inside {
  int64_t rows = 0;
  int64_t cols = 0;
};

Inside inside(const TileMatrix& matrix, int64_t tile_row, int64_t tile_col) {
  return {std::min<int64_t>(matrix.tile.rows, matrix.rows - tile_row * matrix.tile.rows),
          std::min<int64_t>(matrix.tile.cols, matrix.cols - tile_col * matrix.tile.cols)};
}

// Kernels may multiply what reaches over the edge with anything.
Status check_padding(const TileMatrix& matrix, int64_t tile_row, int64_t index) {
  const int64_t bytes = static_cast<int64_t>(size_bytes(matrix.dtype));
  const Inside part = inside(matrix, tile_row, matrix.columns[index]);
  if (part.rows == matrix.tile.rows && part.cols == matrix.tile.cols) return {};
  const int64_t cols = matrix.tile.cols;
  const char* tile =
      static_cast<const char*>(matrix.values) + index * matrix.tile.rows * cols * bytes;
  for (int64_t r = 0; r < matrix.tile.rows; ++r) {
    const int64_t first = r < part.rows ? part.cols : 0;
    for (int64_t c = first; c < cols; ++c) {
      float value = 0;
      convert_to_f32(tile + (r * cols + c) * bytes, matrix.dtype, 1, &value);
      if (value == 0) continue;
      return invalid_input(
          fmt::format("tile {}: expected 0 outside the matrix, at row {} and column {} of the "
                      "tile, found {}",
                      index, r, c, value));
    }
  }
  return {};
}

}  // namespace

Status validate(const TileMatrix& matrix, int64_t kept) {
  TESSERA_RETURN_IF_ERROR(check_extents(matrix.rows, matrix.cols));
  const TileShape tile = matrix.tile;
  if (std::min(tile.rows, tile.cols) < 1 || std::max(tile.rows, tile.cols) > kMaxTileExtent) {
    return invalid_input(fmt::format("expected tiles of 1 to {} rows and columns, found {} x {}",
                                     kMaxTileExtent, tile.rows, tile.cols));
  }
  TESSERA_RETURN_IF_ERROR(
      check_offsets({"row of tiles", matrix.offsets, matrix.tile_rows()}, kept));
  for (int64_t row = 0; row < matrix.tile_rows(); ++row) {
    TESSERA_RETURN_IF_ERROR(
        check_ascending({"columns of tiles", matrix.columns, matrix.offsets[row],
                         matrix.offsets[row + 1], matrix.tile_cols()}));
    for (int64_t i = matrix.offsets[row]; i < matrix.offsets[row + 1]; ++i)
      TESSERA_RETURN_IF_ERROR(check_padding(matrix, row, i));
  }
  return {};
}

void to_dense(const TileMatrix& matrix, void* target) {
  const int64_t bytes = static_cast<int64_t>(size_bytes(matrix.dtype));
  auto* dense = static_cast<char*>(target);
  std::memset(dense, 0, static_cast<size_t>(matrix.rows * matrix.cols * bytes));
  const auto* tile = static_cast<const char*>(matrix.values);
  for (int64_t row = 0; row < matrix.tile_rows(); ++row) {
    for (int64_t i = matrix.offsets[row]; i < matrix.offsets[row + 1]; ++i) {
      const int64_t col = matrix.columns[i];
      const Inside part = inside(matrix, row, col);
      for (int64_t r = 0; r < part.rows; ++r) {
        std::memcpy(
            dense + ((row * matrix.tile.rows + r) * matrix.cols + col * matrix.tile.cols) * bytes,
            tile + r * matrix.tile.cols * bytes, static_cast<size_t>(part.cols * bytes));
      }
      tile += int64_t{matrix.tile.rows} * matrix.tile.cols * bytes;
    }
  }
}

int64_t packed_bytes(const TileMatrix& matrix) {
  const int64_t tile = int64_t{matrix.tile.rows} * matrix.tile.cols;
  return matrix.kept() * (tile * static_cast<int64_t>(size_bytes(matrix.dtype)) + 4) +
         4 * (matrix.tile_rows() + 1);
}

int64_t flops_per_row(const TileMatrix& matrix) {
  return 2 * matrix.kept() * matrix.tile.rows * matrix.tile.cols;
}

}  // namespace tessera
