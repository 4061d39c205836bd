#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/dtype.h"

namespace tessera {

// The reference implementation of the format has this limit too.
inline constexpr size_t kMaxHeaderBytes = 100'000'000;
inline constexpr size_t kMaxTensorNameBytes = 1024;
inline constexpr size_t kMaxDimensions = 32;
inline constexpr std::string_view kMetadataName = "__metadata__";

// What a tensor takes whose values take so much each; nothing where an extent is negative, or the
// extents or the product overflow int64_t, also where another extent is 0.
inline std::optional<int64_t> tensor_size(int64_t value_size, const std::vector<int64_t>& shape) {
  int64_t product = value_size;
  bool empty = false;
  for (const int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    empty |= extent == 0;
    if (extent != 0 && __builtin_mul_overflow(product, extent, &product)) return std::nullopt;
  }
  return empty ? 0 : product;
}

inline std::optional<int64_t> tensor_bytes(DType dtype, const std::vector<int64_t>& shape) {
  return tensor_size(static_cast<int64_t>(size_bytes(dtype)), shape);
}

}  // namespace tessera
