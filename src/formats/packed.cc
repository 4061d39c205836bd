#include "formats/packed.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tessera {
namespace {

Status check_mask(const DenseView& dense, const TileMask& mask) {
  if (mask.rows != dense.rows || mask.cols != dense.cols) {
    return invalid_input(
        fmt::format("expected a mask for a matrix of {} x {}, found one for {} x {}", dense.rows,
                    dense.cols, mask.rows, mask.cols));
  }
  if (mask.kept_tiles() <= INT32_MAX) return {};
  return unsupported(fmt::format("expected at most {} kept units in a matrix, found {}", INT32_MAX,
                                 mask.kept_tiles()));
}

void list_kept(const TileMask& mask, PackedMatrix& packed) {
  packed.offsets = {0};
  for (int64_t r = 0; r < mask.tile_rows(); ++r) {
    for (int64_t c = 0; c < mask.tile_cols(); ++c) {
      if (mask.keeps(r, c)) packed.indices.push_back(static_cast<int32_t>(c));
    }
    packed.offsets.push_back(static_cast<int32_t>(packed.indices.size()));
  }
}

}  // namespace

Result<PackedMatrix> pack_tiles(const DenseView& dense, const TileMask& mask) {
  TESSERA_RETURN_IF_ERROR(check_mask(dense, mask));
  PackedMatrix packed;
  list_kept(mask, packed);
  const int64_t bytes = static_cast<int64_t>(size_bytes(dense.dtype));
  const TileShape tile = mask.tile;
  const int64_t tile_bytes = tile.rows * tile.cols * bytes;
  packed.values.assign(packed.indices.size() * static_cast<size_t>(tile_bytes), 0);
  const auto* source = static_cast<const char*>(dense.data);
  for (int64_t row = 0; row < mask.tile_rows(); ++row) {
    const int64_t height = std::min<int64_t>(tile.rows, dense.rows - row * tile.rows);
    for (int64_t i = packed.offsets[static_cast<size_t>(row)];
         i < packed.offsets[static_cast<size_t>(row) + 1]; ++i) {
      const int64_t left = int64_t{packed.indices[static_cast<size_t>(i)]} * tile.cols;
      const int64_t width = std::min<int64_t>(tile.cols, dense.cols - left);
      for (int64_t r = 0; r < height; ++r) {
        std::memcpy(packed.values.data() + i * tile_bytes + r * tile.cols * bytes,
                    source + ((row * tile.rows + r) * dense.cols + left) * bytes,
                    static_cast<size_t>(width * bytes));
      }
    }
  }
  packed.matrix = TileMatrix{
      packed.values.data(),  dense.dtype,          dense.rows, dense.cols, dense.order, tile,
      packed.offsets.data(), packed.indices.data()};
  return packed;
}

Result<PackedMatrix> pack_csr(const DenseView& dense, const TileMask& mask) {
  TESSERA_RETURN_IF_ERROR(check_mask(dense, mask));
  if (mask.tile.rows != 1 || mask.tile.cols != 1) {
    return invalid_input(fmt::format("expected a mask of single elements, found {} x {}",
                                     mask.tile.rows, mask.tile.cols));
  }
  PackedMatrix packed;
  list_kept(mask, packed);
  const size_t bytes = size_bytes(dense.dtype);
  packed.values.resize(packed.indices.size() * bytes);
  const auto* source = static_cast<const char*>(dense.data);
  for (int64_t row = 0; row < dense.rows; ++row) {
    for (size_t i = static_cast<size_t>(packed.offsets[static_cast<size_t>(row)]);
         i < static_cast<size_t>(packed.offsets[static_cast<size_t>(row) + 1]); ++i) {
      const size_t at = static_cast<size_t>(row * dense.cols + packed.indices[i]);
      std::memcpy(packed.values.data() + i * bytes, source + at * bytes, bytes);
    }
  }
  packed.matrix =
      CsrMatrix{packed.values.data(), dense.dtype,           dense.rows,           dense.cols,
                dense.order,          packed.offsets.data(), packed.indices.data()};
  return packed;
}

Result<PackedMatrix> pack_compact(const DenseView& dense, KeptAxis axis,
                                  const std::vector<uint8_t>& kept) {
  const bool rows = (axis == KeptAxis::kOutputs) == (dense.order == MatrixOrder::kOutputRows);
  const int64_t whole = rows ? dense.rows : dense.cols;
  if (static_cast<int64_t>(kept.size()) != whole) {
    return invalid_input(
        fmt::format("expected {} marks of what is kept, found {}", whole, kept.size()));
  }
  PackedMatrix packed;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (kept[i] != 0) packed.indices.push_back(static_cast<int32_t>(i));
  }
  const int64_t count = static_cast<int64_t>(packed.indices.size());
  const int64_t bytes = static_cast<int64_t>(size_bytes(dense.dtype));
  const auto* source = static_cast<const char*>(dense.data);
  DenseView small{nullptr, dense.dtype, rows ? count : dense.rows, rows ? dense.cols : count,
                  dense.order};
  packed.values.resize(static_cast<size_t>(small.rows * small.cols * bytes));
  for (int64_t r = 0; r < small.rows; ++r) {
    char* target = packed.values.data() + r * small.cols * bytes;
    const char* row =
        source + (rows ? packed.indices[static_cast<size_t>(r)] : r) * dense.cols * bytes;
    if (rows) std::memcpy(target, row, static_cast<size_t>(dense.cols * bytes));
    for (int64_t c = 0; c < count && !rows; ++c) {
      std::memcpy(target + c * bytes, row + packed.indices[static_cast<size_t>(c)] * bytes,
                  static_cast<size_t>(bytes));
    }
  }
  small.data = packed.values.data();
  packed.matrix = CompactMatrix{small, axis, packed.indices.data(), whole};
  return packed;
}

namespace {

// The integer of at most 8 bits that stands for a value.
int32_t rounded(float value, float scale, float least, float most) {
  const float exact = scale == 0 ? 0 : value / scale;
  return static_cast<int32_t>(std::nearbyint(std::clamp(exact, least, most)));
}

// Into a row that is 0 there.
void put_integer(int32_t q, int64_t input, Precision precision, char* row) {
  if (bits(precision) == 8) {
    row[input] = static_cast<char>(q);
  } else {
    row[input / 2] = static_cast<char>(row[input / 2] | (q + 8) << (input % 2 * 4));
  }
}

void store_scale(float scale, DType type, int64_t index, char* scales) {
  const uint16_t half = f32_to_f16(scale);
  const size_t bytes = size_bytes(type);
  std::memcpy(scales + static_cast<size_t>(index) * bytes,
              type == DType::kF32 ? static_cast<const void*>(&scale) : &half, bytes);
}

// Calls visit(output, input, index of the value) for all values of tiles that lie in the matrix.
template <typename Visit>
void for_each_value(const TileMatrix& matrix, Visit visit) {
  const bool by_output = matrix.order == MatrixOrder::kOutputRows;
  const TileShape tile = matrix.tile;
  for (int64_t row = 0; row < matrix.tile_rows(); ++row) {
    const int64_t top = row * tile.rows, height = std::min<int64_t>(tile.rows, matrix.rows - top);
    for (int64_t i = matrix.offsets[row]; i < matrix.offsets[row + 1]; ++i) {
      const int64_t left = int64_t{matrix.columns[i]} * tile.cols;
      const int64_t width = std::min<int64_t>(tile.cols, matrix.cols - left);
      for (int64_t r = 0; r < height; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          const auto at = static_cast<size_t>((i * tile.rows + r) * tile.cols + c);
          const auto row_at = static_cast<size_t>(top + r), col_at = static_cast<size_t>(left + c);
          visit(by_output ? row_at : col_at, by_output ? col_at : row_at, at);
        }
      }
    }
  }
}

// The tiles of a matrix with the values of `packed`, which gets their indices.
TileMatrix own_tiles(const TileMatrix& tiles, DType dtype, PackedMatrix& packed) {
  packed.offsets.assign(tiles.offsets, tiles.offsets + tiles.tile_rows() + 1);
  packed.indices.assign(tiles.columns, tiles.columns + tiles.kept());
  return {packed.values.data(),
          dtype,
          tiles.rows,
          tiles.cols,
          tiles.order,
          tiles.tile,
          packed.offsets.data(),
          packed.indices.data()};
}

}  // namespace

Result<PackedMatrix> pack_quantized(const TileMatrix& tiles) {
  const int64_t count = tiles.kept() * tiles.tile.rows * tiles.tile.cols;
  std::vector<float> values(static_cast<size_t>(count));
  convert_to_f32(tiles.values, tiles.dtype, count, values.data());
  std::vector<float> scales(static_cast<size_t>(tiles.outputs()));
  for_each_value(tiles, [&](size_t output, size_t, size_t v) {
    scales[output] = std::max(scales[output], std::abs(values[v]));
  });
  for (float& scale : scales) scale /= 127;
  PackedMatrix packed;
  packed.values.assign(values.size(), 0);
  for_each_value(tiles, [&](size_t output, size_t, size_t v) {
    packed.values[v] = static_cast<char>(rounded(values[v], scales[output], -127, 127));
  });
  packed.scales.resize(scales.size() * sizeof(float));
  std::memcpy(packed.scales.data(), scales.data(), packed.scales.size());
  TileMatrix matrix = own_tiles(tiles, DType::kI8, packed);
  matrix.scales = reinterpret_cast<const float*>(packed.scales.data());
  packed.matrix = matrix;
  TESSERA_RETURN_IF_ERROR(validate(matrix, matrix.kept()));
  return packed;
}

PackedMatrix pack_floats(const TileMatrix& integers) {
  const auto* values = static_cast<const int8_t*>(integers.values);
  std::vector<float> floats(
      static_cast<size_t>(integers.kept() * integers.tile.rows * integers.tile.cols));
  for_each_value(integers, [&](size_t output, size_t input, size_t v) {
    const double whole = double{integers.scales[output]} * values[v];
    floats[v] = static_cast<float>(
        integers.input_scales == nullptr ? whole : whole / integers.input_scales[input]);
  });
  PackedMatrix packed;
  packed.values.resize(floats.size() * sizeof(float));
  if (!floats.empty()) std::memcpy(packed.values.data(), floats.data(), packed.values.size());
  packed.matrix = own_tiles(integers, DType::kF32, packed);
  return packed;
}

PackedMatrix pack_whole(const TileMatrix& integers) {
  QuantizedMatrix matrix{
      .rows = integers.outputs(), .cols = integers.inputs(), .scale_type = DType::kF32};
  PackedMatrix packed;
  packed.values.assign(static_cast<size_t>(matrix.rows * matrix.cols), 0);
  const auto* values = static_cast<const char*>(integers.values);
  for_each_value(integers, [&](size_t output, size_t input, size_t v) {
    packed.values[output * static_cast<size_t>(matrix.cols) + input] = values[v];
  });
  packed.scales.resize(static_cast<size_t>(matrix.rows) * sizeof(float));
  std::memcpy(packed.scales.data(), integers.scales, packed.scales.size());
  matrix.values = packed.values.data();
  matrix.scales = packed.scales.data();
  if (integers.input_scales != nullptr) {
    packed.input_scales.assign(integers.input_scales, integers.input_scales + matrix.cols);
    matrix.input_scales = packed.input_scales.data();
  }
  packed.matrix = matrix;
  return packed;
}

PackedMatrix pack_integers(const Integers& integers) {
  QuantizedMatrix matrix{.precision = integers.precision,
                         .rows = integers.outputs,
                         .cols = integers.inputs,
                         .group = integers.group,
                         .scale_type = scale_type(integers.precision)};
  PackedMatrix packed;
  packed.values.assign(static_cast<size_t>(matrix.rows * matrix.row_bytes()), 0);
  for (int64_t o = 0; o < matrix.rows; ++o) {
    const int8_t* source = integers.values.data() + o * matrix.cols;
    char* row = packed.values.data() + o * matrix.row_bytes();
    for (int64_t i = 0; i < matrix.cols; ++i) put_integer(source[i], i, matrix.precision, row);
  }
  packed.scales.resize(integers.scales.size() * size_bytes(matrix.scale_type));
  for (size_t i = 0; i < integers.scales.size(); ++i) {
    store_scale(integers.scales[i], matrix.scale_type, static_cast<int64_t>(i),
                packed.scales.data());
  }
  packed.input_scales = integers.input_scales;
  matrix.values = packed.values.data();
  matrix.scales = packed.scales.data();
  if (!packed.input_scales.empty()) matrix.input_scales = packed.input_scales.data();
  packed.matrix = matrix;
  return packed;
}

PackedMatrix copy_of(const QuantizedMatrix& matrix) {
  PackedMatrix packed;
  const auto* values = static_cast<const char*>(matrix.values);
  const auto* scales = static_cast<const char*>(matrix.scales);
  const auto scale_bytes = static_cast<int64_t>(size_bytes(matrix.scale_type));
  packed.values.assign(values, values + matrix.rows * matrix.row_bytes());
  packed.scales.assign(scales, scales + matrix.rows * matrix.groups() * scale_bytes);
  QuantizedMatrix own = matrix;
  own.values = packed.values.data();
  own.scales = packed.scales.data();
  if (matrix.input_scales != nullptr) {
    packed.input_scales.assign(matrix.input_scales, matrix.input_scales + matrix.cols);
    own.input_scales = packed.input_scales.data();
  }
  packed.matrix = own;
  return packed;
}

void clear_pruned(const TileMask& mask, size_t value_bytes, void* dense) {
  for (int64_t row = 0; row < mask.rows; ++row) {
    char* line = static_cast<char*>(dense) + static_cast<size_t>(row * mask.cols) * value_bytes;
    for (int64_t c = 0; c < mask.tile_cols(); ++c) {
      if (mask.keeps(row / mask.tile.rows, c)) continue;
      const int64_t left = c * mask.tile.cols;
      const int64_t width = std::min<int64_t>(mask.tile.cols, mask.cols - left);
      std::memset(line + static_cast<size_t>(left) * value_bytes, 0,
                  static_cast<size_t>(width) * value_bytes);
    }
  }
}

}  // namespace tessera
