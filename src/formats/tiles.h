#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/status.h"
#include "formats/dense.h"

namespace tessera {

// The tiles of a matrix as a checkpoint holds it, so whatever its order says of inputs and outputs.
// The last row and column of tiles reach over the edge where the shape is no multiple; what lies
// outside is zero.
struct TileShape {
  int32_t rows = 16;
  int32_t cols = 16;
};

// A matrix of which only some tiles are kept, the others are zero (E.T., tensor-tile pruning). The
// kept tiles stand in the order of their rows of tiles, in each by column. The memory belongs to
// the checkpoint; values need not be aligned for their dtype.
//   values:  [kept][tile.rows][tile.cols] of floats, or of int8 from -127 to 127, of which each has
//            to be multiplied by scales[output] / input_scales[input]
//   offsets: [tile_rows() + 1]: row i of tiles keeps tiles offsets[i] .. offsets[i + 1]
//   columns: [kept]: a tile's column of tiles, ascending within its row
//   scales:  [outputs] of int8 values, finite; null for floats
//   input_scales: [inputs] of int8 values or null (all 1), as in formats/quantized.h
struct TileMatrix {
  const void* values = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  MatrixOrder order = MatrixOrder::kOutputRows;
  TileShape tile;
  const int32_t* offsets = nullptr;
  const int32_t* columns = nullptr;
  const float* scales = nullptr;
  const float* input_scales = nullptr;

  bool is_quantized() const { return dtype == DType::kI8; }
  int64_t tile_rows() const { return (rows + tile.rows - 1) / tile.rows; }
  int64_t tile_cols() const { return (cols + tile.cols - 1) / tile.cols; }
  int64_t kept() const { return offsets[tile_rows()]; }
  int64_t outputs() const { return order == MatrixOrder::kOutputRows ? rows : cols; }
  int64_t inputs() const { return order == MatrixOrder::kOutputRows ? cols : rows; }

  static constexpr const WeightFormat& kFormat = weight_formats::tiles;
  static TileMatrix of(const StoredMatrix& matrix);
  operator StoredMatrix() const;
};

// A tile has at most so many rows and columns.
inline constexpr int32_t kMaxTileExtent = 256;

// Everything that indices from a file can be wrong in, values outside the matrix that are not zero,
// and the scales and the range of int8 values; kept: how many tiles the values hold. The offsets
// are tile_rows() + 1 and the columns kept.
Status validate(const TileMatrix& matrix, int64_t kept);
// target: [rows, cols] of the matrix's own dtype, or f32 for int8 values, each rounded once; every
// element is written.
void to_dense(const TileMatrix& matrix, void* target);
// The FLOPs of a product with one row: two for each kept value, padding included.
int64_t flops_per_row(const TileMatrix& matrix);

}  // namespace tessera
