#include "io/compressed.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "io/json.h"
#include "io/safetensors_limits.h"

namespace tessera {
namespace {

constexpr std::string_view kStack = "stack";

// Names one after another, as a sentence has alternatives.
template <typename Name>
std::string alternatives(const std::vector<Name>& names) {
  std::string all(names.front());
  for (size_t i = 1; i < names.size(); ++i)
    all += fmt::format("{}{}", i + 1 == names.size() ? " or " : ", ", names[i]);
  return all;
}

Status wrong_shape(const Config& entry, std::string_view key, size_t found) {
  return invalid_input(
      fmt::format("{}: {}: expected two integers, found {}", entry.source(), key, found));
}

struct Limits {
  int64_t least = 1;
  int64_t most = kMaxMatrixExtent;
};

Status check_range(const Config& entry, std::string_view key, int64_t value, Limits limits) {
  if (value >= limits.least && value <= limits.most) return {};
  return invalid_input(fmt::format("{}: {}: expected integers from {} to {}, found {}",
                                   entry.source(), key, limits.least, limits.most, value));
}

// Names stand in messages as they are.
Status check_name(const Config& tensors, const std::string& name) {
  const bool is_plain = std::none_of(name.begin(), name.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
  if (is_plain && !name.empty() && name.size() <= kMaxTensorNameBytes) return {};
  return invalid_input(
      fmt::format("{}: expected names of 1 to {} bytes without control characters, found {}",
                  tensors.source(), kMaxTensorNameBytes, quote(name)));
}

// Null: a stack.
Result<const WeightFormat*> read_kind(const Config& entry) {
  TESSERA_ASSIGN_OR_RETURN(const std::string name, entry.string("format"));
  if (name == kStack) return nullptr;
  if (const WeightFormat* format = find_weight_format(name); format != nullptr) return format;
  std::vector<std::string_view> names;
  for (const WeightFormat* format : all_weight_formats()) names.push_back(format->name);
  names.push_back(kStack);
  return unsupported(fmt::format("{}: format: expected {}, found {}", entry.source(),
                                 alternatives(names), quote(name)));
}

Result<int64_t> read_word(const Config& entry, const AttributeSpec& spec) {
  TESSERA_ASSIGN_OR_RETURN(const std::string word, entry.string(spec.key));
  const auto found = std::find(spec.words.begin(), spec.words.end(), word);
  if (found != spec.words.end()) return found - spec.words.begin();
  return unsupported(fmt::format("{}: {}: expected {}, found {}", entry.source(), spec.key,
                                 alternatives(std::vector(spec.words.begin(), spec.words.end())),
                                 quote(word)));
}

Result<Attribute> read_pair(const Config& entry, std::string_view key, Limits limits) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<int64_t> pair, entry.integers(key));
  if (pair.size() != 2) return wrong_shape(entry, key, pair.size());
  for (const int64_t value : pair) TESSERA_RETURN_IF_ERROR(check_range(entry, key, value, limits));
  return Attribute{pair[0], pair[1]};
}

Result<Attribute> read_attribute(const Config& entry, const AttributeSpec& spec) {
  switch (spec.kind) {
    case AttributeSpec::Kind::kPair:
      return read_pair(entry, spec.key, {spec.least, spec.most});
    case AttributeSpec::Kind::kWord: {
      TESSERA_ASSIGN_OR_RETURN(const int64_t word, read_word(entry, spec));
      return Attribute{word, 0};
    }
    case AttributeSpec::Kind::kInteger:
      break;
  }
  TESSERA_ASSIGN_OR_RETURN(const int64_t value, entry.integer(spec.key, spec.least, spec.most));
  return Attribute{value, 0};
}

Result<TensorFormat> read_format(const Config& entry) {
  TensorFormat format;
  TESSERA_ASSIGN_OR_RETURN(format.format, read_kind(entry));
  TESSERA_ASSIGN_OR_RETURN(const Attribute shape, read_pair(entry, "shape", {}));
  format.rows = shape[0];
  format.cols = shape[1];
  if (format.is_stack()) {
    TESSERA_ASSIGN_OR_RETURN(format.parts, entry.strings("parts"));
    if (!format.parts.empty() && format.parts.size() <= 16) return format;
    return invalid_input(fmt::format("{}: parts: expected 1 to 16 names, found {}", entry.source(),
                                     format.parts.size()));
  }
  for (const AttributeSpec& spec : format.format->attributes) {
    TESSERA_ASSIGN_OR_RETURN(const Attribute attribute, read_attribute(entry, spec));
    format.attributes.push_back(attribute);
  }
  return format;
}

// I16 or I32 of any alignment as the bytes of int32_t.
std::vector<char> widened(const TensorView& tensor) {
  const auto* source = static_cast<const char*>(tensor.data);
  if (tensor.dtype == DType::kI32) return {source, source + tensor.size_bytes};
  std::vector<char> bytes(2 * tensor.size_bytes);
  for (size_t at = 0; at < tensor.size_bytes; at += sizeof(int16_t)) {
    int16_t value = 0;
    std::memcpy(&value, source + at, sizeof(value));
    const int32_t wide = value;
    std::memcpy(bytes.data() + 2 * at, &wide, sizeof(wide));
  }
  return bytes;
}

// Reads the parts of one matrix, each by its rule.
class Reader {
 public:
  Reader(const Checkpoint& checkpoint, const std::string& name)
      : checkpoint_(checkpoint), name_(name) {}

  // stored: with its format, extents and attributes; extents of a dense one may be -1.
  Result<ReadMatrix> read(StoredMatrix stored) {
    ReadMatrix read;
    read.packed.matrix = std::move(stored);
    StoredMatrix& matrix = read.packed.matrix;
    matrix.parts.resize(matrix.format->parts.size());
    find_optional(matrix);
    for (size_t i = 0; i < matrix.parts.size(); ++i) {
      const PartSpec& spec = matrix.format->parts[i];
      if (spec.presence == PartSpec::Presence::kNeeded || matrix.part(i).is_present())
        TESSERA_RETURN_IF_ERROR(read_part(i, read));
    }
    if (is<DenseView>(matrix)) {
      matrix.rows = matrix.part(0).shape[0];
      matrix.cols = matrix.part(0).shape[1];
      return read;
    }
    if (const Status status = validate(matrix); !status.ok()) {
      return Status(status.code(), fmt::format("{}: tensor {}: {}", checkpoint_.directory(),
                                               quote(name_), status.message()));
    }
    return read;
  }

 private:
  // Rules may depend on which parts there are.
  void find_optional(StoredMatrix& matrix) const {
    for (size_t i = 0; i < matrix.parts.size(); ++i) {
      const PartSpec& spec = matrix.format->parts[i];
      if (spec.presence == PartSpec::Presence::kOptional && checkpoint_.has(name_ + spec.suffix))
        matrix.parts[i].shape = {-1};
    }
  }

  Result<TensorView> find(const std::string& name, const PartRule& rule) const {
    switch (rule.type) {
      case PartType::kI8:
        return checkpoint_.typed(name, rule.shape, DType::kI8);
      case PartType::kU8:
        return checkpoint_.typed(name, rule.shape, DType::kU8);
      case PartType::kF32:
        return checkpoint_.typed(name, rule.shape, DType::kF32);
      case PartType::kIndices:
        return checkpoint_.indices(name, rule.shape.front());
      case PartType::kFloats:
        break;
    }
    return checkpoint_.tensor(name, rule.shape);
  }

  Status read_part(size_t index, ReadMatrix& read) const {
    StoredMatrix& matrix = read.packed.matrix;
    const PartRule rule = matrix.format->rule(matrix, index);
    TESSERA_ASSIGN_OR_RETURN(const TensorView tensor,
                             find(name_ + matrix.format->parts[index].suffix, rule));
    matrix.parts[index] = {tensor.data, tensor.dtype, tensor.shape};
    if (rule.type == PartType::kIndices) {
      matrix.parts[index].dtype = DType::kI32;
      read.packed.own(index, widened(tensor));
    } else if (rule.type == PartType::kF32) {
      const auto* bytes = static_cast<const char*>(tensor.data);
      read.packed.own(index, {bytes, bytes + tensor.size_bytes});
    }
    if (rule.type == PartType::kFloats) read.floats.push_back(tensor);
    read.tensors.push_back(tensor);
    return {};
  }

  const Checkpoint& checkpoint_;
  const std::string& name_;
};

bool differs(int64_t found, int64_t expected) { return expected != -1 && found != expected; }

}  // namespace

Result<TensorFormats> TensorFormats::read(const Config& config) {
  TensorFormats formats;
  if (!config.has("tessera")) return formats;
  TESSERA_ASSIGN_OR_RETURN(const Config section, config.child("tessera"));
  TESSERA_ASSIGN_OR_RETURN(const int64_t version, section.integer("format", 1, INT32_MAX));
  if (version > kFormatVersion) {
    return unsupported(fmt::format(
        "{}: format: expected at most {}, which this version of Tessera can read, found {}",
        section.source(), kFormatVersion, version));
  }
  TESSERA_ASSIGN_OR_RETURN(const Config tensors, section.child("tensors"));
  for (const std::string& name : tensors.keys()) {
    TESSERA_RETURN_IF_ERROR(check_name(tensors, name));
    TESSERA_ASSIGN_OR_RETURN(const Config entry, tensors.child(name));
    TESSERA_ASSIGN_OR_RETURN(TensorFormat format, read_format(entry));
    formats.tensors_.emplace(name, std::move(format));
  }
  for (const auto& [name, format] : formats.tensors_) {
    for (const std::string& part : format.parts) {
      const TensorFormat* inner = formats.find(part);
      if (inner == nullptr || !inner->is_stack()) continue;
      return invalid_input(
          fmt::format("{}: tensors: {}: expected parts that are no stacks, found {}",
                      section.source(), quote(name), quote(part)));
    }
  }
  return formats;
}

const TensorFormat* TensorFormats::find(std::string_view name) const {
  const auto place = tensors_.find(name);
  return place == tensors_.end() ? nullptr : &place->second;
}

bool TensorFormats::has_stacks() const {
  return std::any_of(tensors_.begin(), tensors_.end(),
                     [](const auto& entry) { return entry.second.is_stack(); });
}

bool has_integers(const Checkpoint& checkpoint, const TensorFormats& formats) {
  return std::any_of(formats.tensors().begin(), formats.tensors().end(), [&](const auto& entry) {
    const auto& [name, format] = entry;
    if (format.is_stack()) return false;
    const auto first = checkpoint.any_tensor(name + format.format->parts.front().suffix);
    return first.ok() && !is_weight_type(first->dtype);
  });
}

bool has_matrix(const Checkpoint& checkpoint, const TensorFormats& formats, std::string_view name) {
  return checkpoint.has(name) || formats.find(name) != nullptr;
}

std::vector<std::string> parts_of(const TensorFormats& formats, const std::string& name) {
  const TensorFormat* format = formats.find(name);
  if (format == nullptr || !format->is_stack()) return {name};
  return format->parts;
}

std::vector<std::string> tensors_of(const TensorFormats& formats, const std::string& name) {
  std::vector<std::string> tensors;
  for (const std::string& part : parts_of(formats, name)) {
    const TensorFormat* entry = formats.find(part);
    const WeightFormat& format = entry == nullptr ? weight_formats::dense : *entry->format;
    for (const PartSpec& spec : format.parts) tensors.push_back(part + spec.suffix);
  }
  return tensors;
}

Result<ReadMatrix> read_matrix(const Checkpoint& checkpoint, const TensorFormats& formats,
                               const std::string& name, const DenseView& expected) {
  const TensorFormat* entry = formats.find(name);
  Reader reader(checkpoint, name);
  if (entry == nullptr || entry->is_dense()) {
    return reader.read(
        {&weight_formats::dense, expected.rows, expected.cols, expected.order, {}, {}});
  }
  if (entry->is_stack()) {
    return invalid_input(fmt::format("{}: tensor {}: expected a matrix, found a stack",
                                     checkpoint.directory(), quote(name)));
  }
  const bool by_outputs = entry->format->rows == WeightFormat::Rows::kOutputs;
  std::pair wanted{expected.rows, expected.cols};
  if (by_outputs && expected.order == MatrixOrder::kInputRows)
    std::swap(wanted.first, wanted.second);
  if (differs(entry->rows, wanted.first) || differs(entry->cols, wanted.second)) {
    const auto text = [](int64_t extent) {
      return extent == -1 ? std::string("any") : std::to_string(extent);
    };
    return invalid_input(
        fmt::format("{}: tensor {}: expected shape [{}, {}], found [{}, {}] in the tessera section",
                    checkpoint.directory(), quote(name), text(wanted.first), text(wanted.second),
                    entry->rows, entry->cols));
  }
  return reader.read({entry->format,
                      entry->rows,
                      entry->cols,
                      by_outputs ? MatrixOrder::kOutputRows : expected.order,
                      entry->attributes,
                      {}});
}

}  // namespace tessera
