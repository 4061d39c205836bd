// Any bytes are refused with a sentence, or give views that lie in the file, are as long as their
// dtype and shape say and are whole and apart: together as long as the data.

#include "io/safetensors.h"

#include <cstdint>
#include <cstdlib>
#include <string_view>

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const auto contents = tessera::parse_safetensors(file, "fuzz");
  if (!contents.ok()) {
    require(!contents.status().message().empty());
    return 0;
  }
  size_t total = 0;
  uint64_t header = 0;
  for (size_t i = 0; i < 8; ++i) header |= uint64_t{data[i]} << (8 * i);
  for (const auto& [name, view] : contents->tensors) {
    const char* begin = static_cast<const char*>(view.data);
    require(begin >= file.data() + 8 + header &&
            begin + view.size_bytes <= file.data() + file.size());
    size_t bytes = tessera::size_bytes(view.dtype);
    for (const int64_t extent : view.shape) bytes *= static_cast<size_t>(extent);
    require(bytes == view.size_bytes);
    total += bytes;
  }
  require(8 + header + total == size);
  return 0;
}
