#include "formats/packed.h"

#include <fmt/format.h>

#include <algorithm>
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
