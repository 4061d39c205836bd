#include "linear/formats.h"

#include <fmt/format.h>

namespace tessera {

Result<Buffer> allocate_packed(int64_t bytes) {
  Buffer buffer = weights_device().allocate(static_cast<size_t>(bytes));
  if (!buffer.empty()) return buffer;
  return out_of_memory(
      fmt::format("Packing a linear map needs {} bytes, which could not be had.", bytes));
}

}  // namespace tessera
