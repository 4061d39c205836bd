#include "formats/checks.h"

#include <fmt/format.h>

#include <cmath>

#include "formats/tiles.h"

namespace tessera {

Status check_extents(int64_t rows, int64_t cols) {
  if (rows >= 1 && cols >= 1 && rows <= kMaxMatrixExtent && cols <= kMaxMatrixExtent) return {};
  return invalid_input(fmt::format("expected 1 to {} rows and columns, found {} x {}",
                                   kMaxMatrixExtent, rows, cols));
}

Status check_offsets(const OffsetList& list, int64_t kept) {
  if (kept < 0 || kept > INT32_MAX) {
    return invalid_input(fmt::format("expected at most {} kept units, found {}", INT32_MAX, kept));
  }
  if (list.offsets[0] != 0) {
    return invalid_input(
        fmt::format("offsets: expected 0 as the first, found {}", list.offsets[0]));
  }
  for (int64_t i = 0; i < list.count; ++i) {
    if (list.offsets[i + 1] >= list.offsets[i] && list.offsets[i + 1] <= kept) continue;
    return invalid_input(fmt::format("offsets: expected {} {} to end from {} to {}, found {}",
                                     list.of, i, list.offsets[i], kept, list.offsets[i + 1]));
  }
  if (list.offsets[list.count] == kept) return {};
  return invalid_input(fmt::format("offsets: expected {} as the last, one a kept unit, found {}",
                                   kept, list.offsets[list.count]));
}

Status check_ascending(const IndexList& list) {
  int64_t least = 0;
  for (int64_t i = list.begin; i < list.end; ++i) {
    if (list.indices[i] >= least && list.indices[i] < list.limit) {
      least = int64_t{list.indices[i]} + 1;
      continue;
    }
    return invalid_input(fmt::format("{}: expected {} to {} at {}, in ascending order, found {}",
                                     list.what, least, list.limit - 1, i, list.indices[i]));
  }
  return {};
}

Status check_input_scales(const float* scales, int64_t count) {
  for (int64_t i = 0; scales != nullptr && i < count; ++i) {
    if (!std::isfinite(scales[i]) || !std::isnormal(1 / scales[i]))
      return invalid_input(fmt::format(
          "input scales: expected values with an inverse, found {} at index {}", scales[i], i));
  }
  return {};
}

}  // namespace tessera
