#include <fmt/format.h>

#include <numeric>

#include "io/compressed.h"
#include "io/json.h"

namespace tessera {
namespace {

// The bytes of a tensor's entry in the header of a safetensors file, and of a matrix's in
// config.json, with shapes and offsets of the most digits there are; both without the name.
constexpr int64_t kHeaderEntryBytes = 120;
constexpr int64_t kConfigEntryBytes = 180;

int64_t tensor_bytes(const TensorToWrite& tensor) {
  return std::accumulate(tensor.shape.begin(), tensor.shape.end(),
                         static_cast<int64_t>(size_bytes(tensor.dtype)), std::multiplies<>());
}

std::string to_json(const AttributeSpec& spec, const Attribute& attribute) {
  switch (spec.kind) {
    case AttributeSpec::Kind::kPair:
      return fmt::format(R"("{}": [{}, {}])", spec.key, attribute[0], attribute[1]);
    case AttributeSpec::Kind::kWord:
      return fmt::format(R"("{}": "{}")", spec.key, spec.words[static_cast<size_t>(attribute[0])]);
    case AttributeSpec::Kind::kInteger:
      break;
  }
  return fmt::format(R"("{}": {})", spec.key, attribute[0]);
}

}  // namespace

std::string to_json(const TensorFormat& format) {
  std::string entry =
      fmt::format(R"({{"format": "{}", "shape": [{}, {}])",
                  format.is_stack() ? "stack" : format.format->name, format.rows, format.cols);
  for (size_t i = 0; i < format.attributes.size(); ++i)
    entry += ", " + to_json(format.format->attributes[i], format.attributes[i]);
  for (size_t i = 0; i < format.parts.size(); ++i)
    entry += (i == 0 ? R"(, "parts": [)" : ", ") + to_json_string(format.parts[i]);
  return entry + (format.parts.empty() ? "}" : "]}");
}

TensorFormat add_matrix(const std::string& name, const PackedMatrix& packed, TensorList& list) {
  const StoredMatrix& matrix = packed.matrix;
  for (size_t i = 0; i < matrix.parts.size(); ++i) {
    const MatrixPart& part = matrix.part(i);
    if (!part.is_present()) continue;
    TensorToWrite tensor{name + matrix.format->parts[i].suffix, part.dtype, part.shape, part.data};
    const PartRule rule = matrix.format->rule(matrix, i);
    if (rule.type == PartType::kIndices && rule.limit <= INT16_MAX) {
      const auto* indices = matrix.data<int32_t>(i);
      list.short_indices.emplace_back(indices, indices + part.shape.front());
      tensor.dtype = DType::kI16;
      tensor.data = list.short_indices.back().data();
    }
    list.tensors.push_back(std::move(tensor));
  }
  return {matrix.format, matrix.rows, matrix.cols, matrix.attributes};
}

int64_t tensor_bytes(const PackedMatrix& matrix) {
  TensorList list;
  add_matrix("", matrix, list);
  return std::accumulate(
      list.tensors.begin(), list.tensors.end(), int64_t{0},
      [](int64_t sum, const TensorToWrite& tensor) { return sum + tensor_bytes(tensor); });
}

int64_t file_bytes(const std::string& name, const PackedMatrix& matrix) {
  TensorList list;
  const TensorFormat format = add_matrix(name, matrix, list);
  int64_t total = format.is_dense() ? 0 : kConfigEntryBytes + static_cast<int64_t>(name.size());
  for (const TensorToWrite& tensor : list.tensors) {
    total += tensor_bytes(tensor) + static_cast<int64_t>(tensor.name.size());
    // The dense form has an entry as well, of fewer digits.
    total += format.is_dense() ? kHeaderEntryBytes / 2 : kHeaderEntryBytes;
  }
  return total;
}

}  // namespace tessera
