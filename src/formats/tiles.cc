#include "formats/tiles.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "formats/checks.h"
#include "formats/packed.h"
#include "formats/weight_format.h"

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

// As it stands there, without its scale.
float value_at(const char* value, DType dtype) {
  if (dtype == DType::kI8) return static_cast<float>(static_cast<int8_t>(*value));
  float wide = 0;
  convert_to_f32(value, dtype, 1, &wide);
  return wide;
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
      const float value = value_at(tile + (r * cols + c) * bytes, matrix.dtype);
      if (value == 0) continue;
      return invalid_input(
          fmt::format("tile {}: expected 0 outside the matrix, at row {} and column {} of the "
                      "tile, found {}",
                      index, r, c, value));
    }
  }
  return {};
}

Status check_integers(const TileMatrix& matrix) {
  if (matrix.scales == nullptr)
    return invalid_input("scales: expected one for each output, found none");
  for (int64_t i = 0; i < matrix.outputs(); ++i) {
    if (!std::isfinite(matrix.scales[i]))
      return invalid_input(
          fmt::format("scales: expected finite values, found {} at index {}", matrix.scales[i], i));
  }
  TESSERA_RETURN_IF_ERROR(check_input_scales(matrix.input_scales, matrix.inputs()));
  const auto* values = static_cast<const int8_t*>(matrix.values);
  const int64_t count = matrix.kept() * matrix.tile.rows * matrix.tile.cols;
  const auto* found = std::find(values, values + count, int8_t{-128});
  if (found == values + count) return {};
  return invalid_input(
      fmt::format("values: expected -127 to 127, found -128 at index {}", found - values));
}

// Part of a row of a tile that stands at `row` and from `col` on.
void write_integers(const TileMatrix& matrix, int64_t row, int64_t col, std::span<const int8_t> run,
                    float* target) {
  const bool by_output = matrix.order == MatrixOrder::kOutputRows;
  for (size_t i = 0; i < run.size(); ++i, ++col) {
    const double whole = double{matrix.scales[by_output ? row : col]} * run[i];
    target[i] = static_cast<float>(matrix.input_scales == nullptr
                                       ? whole
                                       : whole / matrix.input_scales[by_output ? col : row]);
  }
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
  return matrix.is_quantized() ? check_integers(matrix) : Status();
}

void to_dense(const TileMatrix& matrix, void* target) {
  const int64_t bytes = static_cast<int64_t>(size_bytes(matrix.dtype));
  const int64_t wide = matrix.is_quantized() ? int64_t{sizeof(float)} : bytes;
  auto* dense = static_cast<char*>(target);
  std::memset(dense, 0, static_cast<size_t>(matrix.rows * matrix.cols * wide));
  const auto* values = static_cast<const char*>(matrix.values);
  for (int64_t row = 0; row < matrix.tile_rows(); ++row) {
    for (int64_t i = matrix.offsets[row]; i < matrix.offsets[row + 1]; ++i) {
      const Inside part = inside(matrix, row, matrix.columns[i]);
      const int64_t col = int64_t{matrix.columns[i]} * matrix.tile.cols;
      for (int64_t r = 0; r < part.rows; ++r) {
        const char* run = values + (i * matrix.tile.rows + r) * matrix.tile.cols * bytes;
        const int64_t at = row * matrix.tile.rows + r;
        char* place = dense + (at * matrix.cols + col) * wide;
        if (matrix.is_quantized()) {
          write_integers(matrix, at, col,
                         {reinterpret_cast<const int8_t*>(run), static_cast<size_t>(part.cols)},
                         reinterpret_cast<float*>(place));
        } else {
          std::memcpy(place, run, static_cast<size_t>(part.cols * bytes));
        }
      }
    }
  }
}

int64_t flops_per_row(const TileMatrix& matrix) {
  return 2 * matrix.kept() * matrix.tile.rows * matrix.tile.cols;
}

namespace {

constexpr AttributeSpec kAttributes[] = {
    {.key = "tile", .kind = AttributeSpec::Kind::kPair, .least = 1, .most = kMaxTileExtent}};

enum : size_t { kValues, kOffsets, kColumns, kScales, kInputScales };
constexpr PartSpec kParts[] = {
    {".tiles"},
    {".tile_offsets"},
    {".tile_columns"},
    {".tile_scales", PartSpec::Presence::kOptional},
    {".input_scales", PartSpec::Presence::kOptional},
};

PartRule rule(const StoredMatrix& matrix, size_t index) {
  const auto [tile_rows, tile_cols] = matrix.attributes[0];
  switch (index) {
    case kValues:
      return {matrix.part(kScales).is_present() ? PartType::kI8 : PartType::kFloats,
              {-1, tile_rows, tile_cols}};
    case kOffsets:
      return {PartType::kIndices, {(matrix.rows + tile_rows - 1) / tile_rows + 1}};
    case kColumns:
      return {PartType::kIndices,
              {matrix.part(kValues).shape[0]},
              (matrix.cols + tile_cols - 1) / tile_cols};
    case kScales:
      return {PartType::kF32, {outputs(matrix)}};
    default:
      return {PartType::kF32, {inputs(matrix)}};
  }
}

}  // namespace

TileMatrix TileMatrix::of(const StoredMatrix& stored) {
  const auto [tile_rows, tile_cols] = stored.attributes[0];
  TileMatrix matrix{.values = stored.part(kValues).data,
                    .dtype = stored.part(kValues).dtype,
                    .rows = stored.rows,
                    .cols = stored.cols,
                    .order = stored.order,
                    .tile = {static_cast<int32_t>(tile_rows), static_cast<int32_t>(tile_cols)},
                    .offsets = stored.data<int32_t>(kOffsets),
                    .columns = stored.data<int32_t>(kColumns)};
  if (!matrix.is_quantized()) return matrix;
  matrix.scales = stored.data<float>(kScales);
  matrix.input_scales = stored.data<float>(kInputScales);
  return matrix;
}

TileMatrix::operator StoredMatrix() const {
  StoredMatrix stored{&kFormat, rows, cols, order, {{tile.rows, tile.cols}}, {}};
  stored.parts = {{values, dtype, {kept(), tile.rows, tile.cols}},
                  {offsets, DType::kI32, {tile_rows() + 1}},
                  {columns, DType::kI32, {kept()}},
                  {},
                  {}};
  if (scales != nullptr) stored.parts[kScales] = {scales, DType::kF32, {outputs()}};
  if (input_scales != nullptr) stored.parts[kInputScales] = {input_scales, DType::kF32, {inputs()}};
  return stored;
}

constinit const WeightFormat weight_formats::tiles = {
    .name = "tiles",
    .attributes = kAttributes,
    .parts = kParts,
    .rule = rule,
    .validate =
        [](const StoredMatrix& matrix) {
          return validate(get<TileMatrix>(matrix), matrix.part(kValues).shape[0]);
        },
    .to_dense = [](const StoredMatrix& matrix,
                   void* target) { to_dense(get<TileMatrix>(matrix), target); },
    .flops_per_row =
        [](const StoredMatrix& matrix) { return flops_per_row(get<TileMatrix>(matrix)); },
    .pack = [](const DenseView& dense) -> Result<PackedMatrix> {
      return pack_tiles(dense, TileMask::all({}, dense.rows, dense.cols));
    },
};

}  // namespace tessera
