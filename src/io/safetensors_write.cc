#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <new>
#include <tuple>

#include "io/atomic_file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/safetensors_limits.h"

namespace tessera {
namespace {

constexpr size_t kHeaderAlignment = 8;

Status check_tensor(const std::string& path, const TensorToWrite& tensor) {
  const std::string what = fmt::format("{}: tensor {}", path, quote(tensor.name));
  if (tensor.name.size() > kMaxTensorNameBytes || tensor.name.find('\0') != std::string::npos ||
      tensor.name == kMetadataName || !is_utf8(tensor.name)) {
    return invalid_input(
        fmt::format("{}: expected a name of at most {} bytes of UTF-8 without NUL other than {}",
                    what, kMaxTensorNameBytes, kMetadataName));
  }
  if (tensor.shape.size() > kMaxDimensions) {
    return invalid_input(fmt::format("{}: expected at most {} dimensions, found {}", what,
                                     kMaxDimensions, tensor.shape.size()));
  }
  const std::optional<int64_t> bytes = tensor_bytes(tensor.dtype, tensor.shape);
  if (!bytes) {
    return invalid_input(
        fmt::format("{}: expected extents from 0 whose bytes 63 bits can count, found [{}]", what,
                    fmt::join(tensor.shape, ", ")));
  }
  if (*bytes > 0 && tensor.data == nullptr && !tensor.make) {
    return invalid_input(fmt::format("{}: expected {} bytes of data, found none", what, *bytes));
  }
  return {};
}

using Order = std::vector<const TensorToWrite*>;

Result<Order> sorted_order(const std::string& path, const std::vector<TensorToWrite>& tensors) {
  Order order;
  for (const TensorToWrite& tensor : tensors) {
    TESSERA_RETURN_IF_ERROR(check_tensor(path, tensor));
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->name < b->name; });
  const auto twin = std::adjacent_find(order.begin(), order.end(),
                                       [](auto* a, auto* b) { return a->name == b->name; });
  if (twin != order.end()) {
    return invalid_input(
        fmt::format("{}: expected each tensor once, found {} twice", path, quote((*twin)->name)));
  }
  std::stable_sort(order.begin(), order.end(),
                   [](auto* a, auto* b) { return size_bytes(a->dtype) > size_bytes(b->dtype); });
  return order;
}

Result<std::string> make_header(const std::string& path, const Order& order,
                                const std::map<std::string, std::string>& metadata) {
  std::string header = "{";
  const char* comma = "";
  if (!metadata.empty()) {
    header += fmt::format("\"{}\":{{", kMetadataName);
    for (const auto& [key, value] : metadata) {
      if (!is_utf8(key) || !is_utf8(value)) {
        return invalid_input(
            fmt::format("{}: metadata {}: expected UTF-8, found other bytes", path, quote(key)));
      }
      header += fmt::format("{}{}:{}", comma, to_json_string(key), to_json_string(value));
      comma = ",";
    }
    header += "}";
    comma = ",";
  }
  int64_t begin = 0;
  for (const TensorToWrite* tensor : order) {
    int64_t end = 0;
    if (__builtin_add_overflow(begin, *tensor_bytes(tensor->dtype, tensor->shape), &end)) {
      return invalid_input(
          fmt::format("{}: expected tensors whose bytes 63 bits can count, found more", path));
    }
    header += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          comma, to_json_string(tensor->name), name(tensor->dtype),
                          fmt::join(tensor->shape, ","), begin, end);
    comma = ",";
    begin = end;
  }
  header += "}";
  header.resize((header.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  if (header.size() > kMaxHeaderBytes) {
    return invalid_input(fmt::format("{}: expected a header of at most {} bytes, found {}", path,
                                     kMaxHeaderBytes, header.size()));
  }
  return header;
}

Status append(const std::string& path, const TensorToWrite& tensor, AtomicFile& file) {
  const auto bytes = static_cast<size_t>(*tensor_bytes(tensor.dtype, tensor.shape));
  if (!tensor.make) return file.append(tensor.data, bytes);
  TESSERA_ASSIGN_OR_RETURN(const std::vector<char> values, tensor.make());
  if (values.size() == bytes) return file.append(values.data(), bytes);
  return invalid_input(fmt::format("{}: tensor {}: expected {} bytes of data, found {}", path,
                                   quote(tensor.name), bytes, values.size()));
}

}  // namespace

Status write_safetensors(const std::string& path, const std::vector<TensorToWrite>& tensors,
                         const std::map<std::string, std::string>& metadata) try {
  TESSERA_ASSIGN_OR_RETURN(const Order order, sorted_order(path, tensors));
  TESSERA_ASSIGN_OR_RETURN(const std::string header, make_header(path, order, metadata));
  TESSERA_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  std::string length(8, '\0');
  for (size_t i = 0; i < length.size(); ++i)
    length[i] = static_cast<char>((header.size() >> (8 * i)) & 0xff);
  TESSERA_RETURN_IF_ERROR(file.append(length));
  TESSERA_RETURN_IF_ERROR(file.append(header));
  for (const TensorToWrite* tensor : order) {
    TESSERA_RETURN_IF_ERROR(append(path, *tensor, file));
  }
  return file.commit();
} catch (const std::bad_alloc&) {
  return out_of_memory(fmt::format("{}: not enough memory for its header", path));
}

}  // namespace tessera
