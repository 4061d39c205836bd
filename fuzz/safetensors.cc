// Any bytes are refused with a sentence, or give views that lie in the file, are as long as their
// dtype and shape say and are whole and apart: together as long as the data. As an adapter's they
// are refused or give updates whose halves fit each other.

#include "io/safetensors.h"

#include "io/adapter.h"
#include "support/target.h"

namespace tessera::fuzz {
namespace {

constexpr int64_t kMostWeights = 1 << 16;

void check_adapter(const std::map<std::string, TensorView>& tensors) {
  const auto sorted = sort_adapter_tensors(tensors, "fuzz");
  if (!sorted.ok()) return require(!sorted.status().message().empty());
  for (const AdapterUpdate& update : sorted->updates) {
    require(update.rank() > 0 && update.up.shape[1] == update.rank());
    require(update.inputs() > 0 && update.outputs() > 0);
    if (update.inputs() > kMostWeights / update.outputs() || update.rank() > kMostWeights) continue;
    std::vector<float> values(static_cast<size_t>(update.inputs() * update.outputs()));
    update.add_to(values, 0, 0.5);
  }
}

}  // namespace

void check(std::string_view file) {
  const auto contents = parse_safetensors(file, "fuzz");
  if (!contents.ok()) {
    require(!contents.status().message().empty());
    return;
  }
  size_t total = 0;
  uint64_t header = 0;
  for (size_t i = 0; i < 8; ++i) {
    header |= uint64_t{static_cast<unsigned char>(file[i])} << (8 * i);
  }
  for (const auto& [name, view] : contents->tensors) {
    const char* begin = static_cast<const char*>(view.data);
    require(begin >= file.data() + 8 + header &&
            begin + view.size_bytes <= file.data() + file.size());
    size_t bytes = size_bytes(view.dtype);
    for (const int64_t extent : view.shape) bytes *= static_cast<size_t>(extent);
    require(bytes == view.size_bytes);
    total += bytes;
  }
  require(8 + header + total == file.size());
  check_adapter(contents->tensors);
}

}  // namespace tessera::fuzz
