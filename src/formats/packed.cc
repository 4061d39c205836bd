#include "formats/packed.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "formats/weight_format.h"

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

// Where the kept tiles stand.
struct Kept {
  std::vector<int32_t> offsets = {0};
  std::vector<int32_t> columns;

  explicit Kept(const TileMask& mask) {
    for (int64_t r = 0; r < mask.tile_rows(); ++r) {
      for (int64_t c = 0; c < mask.tile_cols(); ++c) {
        if (mask.keeps(r, c)) columns.push_back(static_cast<int32_t>(c));
      }
      offsets.push_back(static_cast<int32_t>(columns.size()));
    }
  }
};

template <typename Value>
std::vector<char> bytes_of(const std::vector<Value>& values) {
  const auto* data = reinterpret_cast<const char*>(values.data());
  return {data, data + values.size() * sizeof(Value)};
}

}  // namespace

void PackedMatrix::own(size_t part, std::vector<char> bytes) {
  memory.resize(matrix.parts.size());
  memory[part] = std::move(bytes);
  matrix.parts[part].data = memory[part].data();
}

PackedMatrix packed_with(StoredMatrix matrix, std::vector<char> values) {
  PackedMatrix packed(std::move(matrix));
  packed.own(0, std::move(values));
  for (size_t i = 1; i < packed.matrix.parts.size(); ++i) {
    const MatrixPart& part = packed.matrix.part(i);
    const auto* data = static_cast<const char*>(part.data);
    if (part.is_present()) packed.own(i, {data, data + part.bytes()});
  }
  return packed;
}

PackedMatrix copy_of(const StoredMatrix& matrix) {
  const auto* values = matrix.data<char>(0);
  return packed_with(matrix, {values, values + matrix.part(0).bytes()});
}

void set_scales(const char* suffix, const std::vector<float>& scales, PackedMatrix& packed) {
  const std::span<const PartSpec> specs = packed.matrix.format->parts;
  for (size_t i = 0; i < specs.size(); ++i) {
    if (std::strcmp(specs[i].suffix, suffix) != 0) continue;
    packed.matrix.parts[i] = {};
    if (scales.empty()) return;
    packed.matrix.parts[i] = {nullptr, DType::kF32, {static_cast<int64_t>(scales.size())}};
    packed.own(i, bytes_of(scales));
  }
}

Result<PackedMatrix> pack_tiles(const DenseView& dense, const TileMask& mask) {
  TESSERA_RETURN_IF_ERROR(check_mask(dense, mask));
  const Kept kept(mask);
  const int64_t bytes = static_cast<int64_t>(size_bytes(dense.dtype));
  const TileShape tile = mask.tile;
  const int64_t tile_bytes = tile.rows * tile.cols * bytes;
  std::vector<char> values(kept.columns.size() * static_cast<size_t>(tile_bytes), 0);
  const auto* source = static_cast<const char*>(dense.data);
  for (int64_t row = 0; row < mask.tile_rows(); ++row) {
    const int64_t height = std::min<int64_t>(tile.rows, dense.rows - row * tile.rows);
    for (int64_t i = kept.offsets[static_cast<size_t>(row)];
         i < kept.offsets[static_cast<size_t>(row) + 1]; ++i) {
      const int64_t left = int64_t{kept.columns[static_cast<size_t>(i)]} * tile.cols;
      const int64_t width = std::min<int64_t>(tile.cols, dense.cols - left);
      for (int64_t r = 0; r < height; ++r) {
        std::memcpy(values.data() + i * tile_bytes + r * tile.cols * bytes,
                    source + ((row * tile.rows + r) * dense.cols + left) * bytes,
                    static_cast<size_t>(width * bytes));
      }
    }
  }
  const TileMatrix tiles{nullptr,     dense.dtype, dense.rows,          dense.cols,
                         dense.order, tile,        kept.offsets.data(), kept.columns.data()};
  return packed_with(tiles, std::move(values));
}

Result<PackedMatrix> pack_csr(const DenseView& dense, const TileMask& mask) {
  TESSERA_RETURN_IF_ERROR(check_mask(dense, mask));
  if (mask.tile.rows != 1 || mask.tile.cols != 1) {
    return invalid_input(fmt::format("expected a mask of single elements, found {} x {}",
                                     mask.tile.rows, mask.tile.cols));
  }
  const Kept kept(mask);
  const size_t bytes = size_bytes(dense.dtype);
  std::vector<char> values(kept.columns.size() * bytes);
  const auto* source = static_cast<const char*>(dense.data);
  for (int64_t row = 0; row < dense.rows; ++row) {
    for (size_t i = static_cast<size_t>(kept.offsets[static_cast<size_t>(row)]);
         i < static_cast<size_t>(kept.offsets[static_cast<size_t>(row) + 1]); ++i) {
      const size_t at = static_cast<size_t>(row * dense.cols + kept.columns[i]);
      std::memcpy(values.data() + i * bytes, source + at * bytes, bytes);
    }
  }
  const CsrMatrix csr{nullptr,     dense.dtype,         dense.rows,         dense.cols,
                      dense.order, kept.offsets.data(), kept.columns.data()};
  return packed_with(csr, std::move(values));
}

Result<PackedMatrix> pack_compact(const DenseView& dense, KeptAxis axis,
                                  const std::vector<uint8_t>& kept) {
  const bool rows = (axis == KeptAxis::kOutputs) == (dense.order == MatrixOrder::kOutputRows);
  const int64_t whole = rows ? dense.rows : dense.cols;
  if (static_cast<int64_t>(kept.size()) != whole) {
    return invalid_input(
        fmt::format("expected {} marks of what is kept, found {}", whole, kept.size()));
  }
  std::vector<int32_t> index;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (kept[i] != 0) index.push_back(static_cast<int32_t>(i));
  }
  const int64_t count = static_cast<int64_t>(index.size());
  const int64_t bytes = static_cast<int64_t>(size_bytes(dense.dtype));
  const auto* source = static_cast<const char*>(dense.data);
  const DenseView small{nullptr, dense.dtype, rows ? count : dense.rows, rows ? dense.cols : count,
                        dense.order};
  std::vector<char> values(static_cast<size_t>(small.rows * small.cols * bytes));
  for (int64_t r = 0; r < small.rows; ++r) {
    char* target = values.data() + r * small.cols * bytes;
    const char* row = source + (rows ? index[static_cast<size_t>(r)] : r) * dense.cols * bytes;
    if (rows) std::memcpy(target, row, static_cast<size_t>(dense.cols * bytes));
    for (int64_t c = 0; c < count && !rows; ++c) {
      std::memcpy(target + c * bytes, row + index[static_cast<size_t>(c)] * bytes,
                  static_cast<size_t>(bytes));
    }
  }
  return packed_with(CompactMatrix{small, axis, index.data(), whole}, std::move(values));
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
  std::vector<char> integers(values.size(), 0);
  for_each_value(tiles, [&](size_t output, size_t, size_t v) {
    integers[v] = static_cast<char>(rounded(values[v], scales[output], -127, 127));
  });
  TileMatrix matrix = tiles;
  matrix.dtype = DType::kI8;
  matrix.scales = scales.data();
  PackedMatrix packed = packed_with(matrix, std::move(integers));
  TESSERA_RETURN_IF_ERROR(validate(packed.matrix));
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
  TileMatrix matrix = integers;
  matrix.dtype = DType::kF32;
  matrix.scales = matrix.input_scales = nullptr;
  return packed_with(matrix, bytes_of(floats));
}

PackedMatrix pack_whole(const TileMatrix& integers) {
  QuantizedMatrix matrix{
      .rows = integers.outputs(), .cols = integers.inputs(), .scale_type = DType::kF32};
  std::vector<char> whole(static_cast<size_t>(matrix.rows * matrix.cols), 0);
  const auto* values = static_cast<const char*>(integers.values);
  for_each_value(integers, [&](size_t output, size_t input, size_t v) {
    whole[output * static_cast<size_t>(matrix.cols) + input] = values[v];
  });
  matrix.scales = integers.scales;
  matrix.input_scales = integers.input_scales;
  return packed_with(matrix, std::move(whole));
}

namespace {

// The usual type of a precision's scales, or f32 where that has not all of these.
DType type_for(const Integers& integers) {
  const DType usual = scale_type(integers.precision);
  const auto holds = [](float scale) { return f16_to_f32(f32_to_f16(scale)) == scale; };
  const bool fits =
      usual == DType::kF32 || std::all_of(integers.scales.begin(), integers.scales.end(), holds);
  return fits ? usual : DType::kF32;
}

}  // namespace

PackedMatrix pack_integers(const Integers& integers) {
  QuantizedMatrix matrix{.precision = integers.precision,
                         .rows = integers.outputs,
                         .cols = integers.inputs,
                         .group = integers.group,
                         .scale_type = type_for(integers)};
  std::vector<char> values(static_cast<size_t>(matrix.rows * matrix.row_bytes()), 0);
  for (int64_t o = 0; o < matrix.rows; ++o) {
    const int8_t* source = integers.values.data() + o * matrix.cols;
    char* row = values.data() + o * matrix.row_bytes();
    for (int64_t i = 0; i < matrix.cols; ++i) put_integer(source[i], i, matrix.precision, row);
  }
  std::vector<char> scales(integers.scales.size() * size_bytes(matrix.scale_type));
  for (size_t i = 0; i < integers.scales.size(); ++i)
    store_scale(integers.scales[i], matrix.scale_type, static_cast<int64_t>(i), scales.data());
  matrix.scales = scales.data();
  if (!integers.input_scales.empty()) matrix.input_scales = integers.input_scales.data();
  return packed_with(matrix, std::move(values));
}

void append_outputs(const PackedMatrix& piece, int64_t outputs, PackedMatrix& whole) {
  const int64_t rows = whole.memory.empty() ? 0 : whole.matrix.rows;
  if (rows == 0) whole.matrix = piece.matrix;
  whole.matrix.rows = rows + piece.matrix.rows;
  whole.memory.resize(whole.matrix.parts.size());
  for (size_t i = 0; i < 2; ++i) {  // values and scales, both by outputs
    MatrixPart& part = whole.matrix.parts[i];
    std::vector<char>& bytes = whole.memory[i];
    bytes.reserve(static_cast<size_t>(piece.matrix.part(i).bytes() / piece.matrix.rows * outputs));
    const auto* more = piece.matrix.data<char>(i);
    bytes.insert(bytes.end(), more, more + piece.matrix.part(i).bytes());
    part.data = bytes.data();
    part.shape[0] = whole.matrix.rows;
  }
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
