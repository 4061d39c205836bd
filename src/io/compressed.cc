#include "io/compressed.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "io/json.h"
#include "io/safetensors_limits.h"

namespace tessera {
namespace {

using Kind = TensorFormat::Kind;

constexpr const char* kKindNames[] = {"dense", "tiles", "csr", "compact", "quantized", "stack"};

Status wrong_shape(const Config& entry, std::string_view key, size_t found) {
  return invalid_input(
      fmt::format("{}: {}: expected two integers, found {}", entry.source(), key, found));
}

Status check_range(const Config& entry, std::string_view key, int64_t value, int64_t most) {
  if (value >= 1 && value <= most) return {};
  return invalid_input(fmt::format("{}: {}: expected integers from 1 to {}, found {}",
                                   entry.source(), key, most, value));
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

Result<Kind> read_kind(const Config& entry) {
  TESSERA_ASSIGN_OR_RETURN(const std::string name, entry.string("format"));
  const auto* found = std::find(std::begin(kKindNames), std::end(kKindNames), name);
  if (found != std::end(kKindNames)) return static_cast<Kind>(found - std::begin(kKindNames));
  return unsupported(
      fmt::format("{}: format: expected dense, tiles, csr, compact, quantized or stack, found {}",
                  entry.source(), quote(name)));
}

Result<Precision> read_precision(const Config& entry) {
  TESSERA_ASSIGN_OR_RETURN(const std::string name, entry.string("precision"));
  const std::optional<Precision> precision = parse_precision(name);
  if (precision.has_value() && is_quantized(*precision)) return *precision;
  return unsupported(fmt::format("{}: precision: expected int8, int4, w8 or w4, found {}",
                                 entry.source(), quote(name)));
}

Result<std::pair<int64_t, int64_t>> read_pair(const Config& entry, std::string_view key,
                                              int64_t most) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<int64_t> pair, entry.integers(key));
  if (pair.size() != 2) return wrong_shape(entry, key, pair.size());
  for (const int64_t extent : pair) TESSERA_RETURN_IF_ERROR(check_range(entry, key, extent, most));
  return std::pair{pair[0], pair[1]};
}

Result<TensorFormat> read_format(const Config& entry) {
  TensorFormat format;
  TESSERA_ASSIGN_OR_RETURN(format.kind, read_kind(entry));
  TESSERA_ASSIGN_OR_RETURN(const auto shape, read_pair(entry, "shape", kMaxMatrixExtent));
  format.rows = shape.first;
  format.cols = shape.second;
  if (format.kind == Kind::kTiles) {
    TESSERA_ASSIGN_OR_RETURN(const auto tile, read_pair(entry, "tile", kMaxTileExtent));
    format.tile = {static_cast<int32_t>(tile.first), static_cast<int32_t>(tile.second)};
  }
  if (format.kind == Kind::kCompact) {
    TESSERA_ASSIGN_OR_RETURN(const std::string axis, entry.string("axis"));
    if (axis != "outputs" && axis != "inputs") {
      return invalid_input(fmt::format("{}: axis: expected outputs or inputs, found {}",
                                       entry.source(), quote(axis)));
    }
    format.axis = axis == "outputs" ? KeptAxis::kOutputs : KeptAxis::kInputs;
  }
  if (format.kind == Kind::kQuantized) {
    TESSERA_ASSIGN_OR_RETURN(format.precision, read_precision(entry));
    TESSERA_ASSIGN_OR_RETURN(const int64_t group, entry.integer("group", 0, kMaxMatrixExtent));
    format.group = static_cast<int32_t>(group);
  }
  if (format.kind == Kind::kStack) {
    TESSERA_ASSIGN_OR_RETURN(format.parts, entry.strings("parts"));
    if (format.parts.empty() || format.parts.size() > 16) {
      return invalid_input(fmt::format("{}: parts: expected 1 to 16 names, found {}",
                                       entry.source(), format.parts.size()));
    }
  }
  return format;
}

// I16 or I32 of any alignment as aligned int32_t.
std::vector<int32_t> widened(const TensorView& tensor) {
  const size_t bytes = size_bytes(tensor.dtype);
  std::vector<int32_t> values(tensor.size_bytes / bytes);
  const auto* source = static_cast<const char*>(tensor.data);
  if (tensor.dtype == DType::kI32) {
    if (!values.empty()) std::memcpy(values.data(), source, tensor.size_bytes);
    return values;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    int16_t value = 0;
    std::memcpy(&value, source + i * sizeof(value), sizeof(value));
    values[i] = value;
  }
  return values;
}

class Reader {
 public:
  Reader(const Checkpoint& checkpoint, const std::string& name)
      : checkpoint_(checkpoint), name_(name) {}

  Result<ReadMatrix> dense(const DenseView& expected) {
    ReadMatrix read;
    TESSERA_ASSIGN_OR_RETURN(read.values,
                             checkpoint_.tensor(name_, {expected.rows, expected.cols}));
    read.packed.matrix = DenseView{read.values.data, read.values.dtype, read.values.shape[0],
                                   read.values.shape[1], expected.order};
    return read;
  }

  Result<ReadMatrix> tiles(const TensorFormat& format, MatrixOrder order) {
    TileMatrix matrix{nullptr, DType::kF32, format.rows, format.cols, order, format.tile};
    ReadMatrix read;
    const std::string values = name_ + ".tiles";
    const std::vector<int64_t> shape = {-1, matrix.tile.rows, matrix.tile.cols};
    const bool integers = checkpoint_.has(name_ + ".tile_scales");
    TESSERA_ASSIGN_OR_RETURN(read.values, integers ? checkpoint_.typed(values, shape, DType::kI8)
                                                   : checkpoint_.tensor(values, shape));
    if (integers) TESSERA_RETURN_IF_ERROR(scales(matrix, read));
    TESSERA_ASSIGN_OR_RETURN(read.packed.offsets,
                             indices("tile_offsets", matrix.tile_rows() + 1, read));
    TESSERA_ASSIGN_OR_RETURN(read.packed.indices,
                             indices("tile_columns", read.values.shape[0], read));
    matrix.values = read.values.data;
    matrix.dtype = read.values.dtype;
    matrix.offsets = read.packed.offsets.data();
    matrix.columns = read.packed.indices.data();
    TESSERA_RETURN_IF_ERROR(named(validate(matrix, read.values.shape[0])));
    read.packed.matrix = matrix;
    return read;
  }

  Result<ReadMatrix> csr(const TensorFormat& format, MatrixOrder order) {
    ReadMatrix read;
    TESSERA_ASSIGN_OR_RETURN(read.values, checkpoint_.tensor(name_ + ".csr_values", {-1}));
    TESSERA_ASSIGN_OR_RETURN(read.packed.offsets, indices("csr_offsets", format.rows + 1, read));
    TESSERA_ASSIGN_OR_RETURN(read.packed.indices,
                             indices("csr_columns", read.values.shape[0], read));
    const CsrMatrix matrix{
        read.values.data,           read.values.dtype,         format.rows, format.cols, order,
        read.packed.offsets.data(), read.packed.indices.data()};
    TESSERA_RETURN_IF_ERROR(named(validate(matrix, read.values.shape[0])));
    read.packed.matrix = matrix;
    return read;
  }

  Result<ReadMatrix> compact(const TensorFormat& format, MatrixOrder order) {
    const bool rows = (format.axis == KeptAxis::kOutputs) == (order == MatrixOrder::kOutputRows);
    ReadMatrix read;
    TESSERA_ASSIGN_OR_RETURN(
        read.values,
        checkpoint_.tensor(name_ + ".kept", {rows ? -1 : format.rows, rows ? format.cols : -1}));
    const std::vector<int64_t>& shape = read.values.shape;
    TESSERA_ASSIGN_OR_RETURN(read.packed.indices, indices("kept_index", shape[rows ? 0 : 1], read));
    const CompactMatrix matrix{{read.values.data, read.values.dtype, shape[0], shape[1], order},
                               format.axis,
                               read.packed.indices.data(),
                               rows ? format.rows : format.cols};
    TESSERA_RETURN_IF_ERROR(named(validate(matrix)));
    read.packed.matrix = matrix;
    return read;
  }

  // Always by outputs.
  Result<ReadMatrix> quantized(const TensorFormat& format) {
    QuantizedMatrix matrix{.precision = format.precision,
                           .rows = format.rows,
                           .cols = format.cols,
                           .group = format.group};
    ReadMatrix read;
    TESSERA_ASSIGN_OR_RETURN(
        read.values, checkpoint_.typed(name_ + ".values", {matrix.rows, matrix.row_bytes()},
                                       bits(matrix.precision) == 8 ? DType::kI8 : DType::kU8));
    TESSERA_ASSIGN_OR_RETURN(const TensorView scales,
                             checkpoint_.tensor(name_ + ".scales", {matrix.rows, matrix.groups()}));
    read.others.push_back(scales);
    if (const std::string name = name_ + ".input_scales"; checkpoint_.has(name)) {
      TESSERA_ASSIGN_OR_RETURN(const TensorView own,
                               checkpoint_.typed(name, {matrix.cols}, DType::kF32));
      read.packed.input_scales.resize(static_cast<size_t>(matrix.cols));
      convert_to_f32(own.data, own.dtype, matrix.cols, read.packed.input_scales.data());
      matrix.input_scales = read.packed.input_scales.data();
    }
    matrix.values = read.values.data;
    matrix.scales = scales.data;
    matrix.scale_type = scales.dtype;
    TESSERA_RETURN_IF_ERROR(named(validate(matrix)));
    read.packed.matrix = matrix;
    return read;
  }

 private:
  Status named(const Status& status) const {
    if (status.ok()) return {};
    return Status(status.code(), fmt::format("{}: tensor {}: {}", checkpoint_.directory(),
                                             quote(name_), status.message()));
  }

  Result<std::vector<int32_t>> indices(const char* suffix, int64_t count, ReadMatrix& read) {
    const std::string name = fmt::format("{}.{}", name_, suffix);
    TESSERA_ASSIGN_OR_RETURN(const TensorView tensor, checkpoint_.indices(name, count));
    read.others.push_back(tensor);
    return widened(tensor);
  }

  // The scales of integer tiles, which are aligned in their copy.
  Status scales(TileMatrix& matrix, ReadMatrix& read) {
    TESSERA_ASSIGN_OR_RETURN(
        const TensorView outputs,
        checkpoint_.typed(name_ + ".tile_scales", {matrix.outputs()}, DType::kF32));
    const auto* source = static_cast<const char*>(outputs.data);
    read.packed.scales.assign(source, source + outputs.size_bytes);
    matrix.scales = reinterpret_cast<const float*>(read.packed.scales.data());
    const std::string name = name_ + ".input_scales";
    if (!checkpoint_.has(name)) return {};
    TESSERA_ASSIGN_OR_RETURN(const TensorView inputs,
                             checkpoint_.typed(name, {matrix.inputs()}, DType::kF32));
    read.packed.input_scales.resize(static_cast<size_t>(matrix.inputs()));
    convert_to_f32(inputs.data, inputs.dtype, matrix.inputs(), read.packed.input_scales.data());
    matrix.input_scales = read.packed.input_scales.data();
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
      if (inner == nullptr || inner->kind != Kind::kStack) continue;
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

bool TensorFormats::has(Kind kind) const {
  return std::any_of(tensors_.begin(), tensors_.end(),
                     [kind](const auto& entry) { return entry.second.kind == kind; });
}

bool has_integers(const Checkpoint& checkpoint, const TensorFormats& formats) {
  return std::any_of(formats.tensors().begin(), formats.tensors().end(), [&](const auto& entry) {
    return entry.second.kind == Kind::kQuantized ||
           (entry.second.kind == Kind::kTiles && checkpoint.has(entry.first + ".tile_scales"));
  });
}

bool has_matrix(const Checkpoint& checkpoint, const TensorFormats& formats, std::string_view name) {
  return checkpoint.has(name) || formats.find(name) != nullptr;
}

const char* name(TensorFormat::Kind kind) { return kKindNames[static_cast<size_t>(kind)]; }

std::vector<std::string> parts_of(const TensorFormats& formats, const std::string& name) {
  const TensorFormat* format = formats.find(name);
  if (format == nullptr || format->kind != Kind::kStack) return {name};
  return format->parts;
}

std::vector<std::string> tensors_of(const TensorFormats& formats, const std::string& name) {
  std::vector<std::string> tensors;
  for (const std::string& part : parts_of(formats, name)) {
    const TensorFormat* format = formats.find(part);
    switch (format == nullptr ? Kind::kDense : format->kind) {
      case Kind::kTiles:
        for (const char* suffix :
             {".tiles", ".tile_offsets", ".tile_columns", ".tile_scales", ".input_scales"})
          tensors.push_back(part + suffix);
        break;
      case Kind::kCsr:
        for (const char* suffix : {".csr_values", ".csr_offsets", ".csr_columns"})
          tensors.push_back(part + suffix);
        break;
      case Kind::kCompact:
        for (const char* suffix : {".kept", ".kept_index"}) tensors.push_back(part + suffix);
        break;
      case Kind::kQuantized:
        for (const char* suffix : {".values", ".scales", ".input_scales"})
          tensors.push_back(part + suffix);
        break;
      default:
        tensors.push_back(part);
    }
  }
  return tensors;
}

Result<ReadMatrix> read_matrix(const Checkpoint& checkpoint, const TensorFormats& formats,
                               const std::string& name, const DenseView& expected) {
  const TensorFormat* format = formats.find(name);
  Reader reader(checkpoint, name);
  if (format == nullptr || format->kind == Kind::kDense) return reader.dense(expected);
  std::pair wanted{expected.rows, expected.cols};
  if (format->kind == Kind::kQuantized && expected.order == MatrixOrder::kInputRows)
    std::swap(wanted.first, wanted.second);
  if (differs(format->rows, wanted.first) || differs(format->cols, wanted.second)) {
    const auto text = [](int64_t extent) {
      return extent == -1 ? std::string("any") : std::to_string(extent);
    };
    return invalid_input(
        fmt::format("{}: tensor {}: expected shape [{}, {}], found [{}, {}] in the tessera section",
                    checkpoint.directory(), quote(name), text(wanted.first), text(wanted.second),
                    format->rows, format->cols));
  }
  switch (format->kind) {
    case Kind::kTiles:
      return reader.tiles(*format, expected.order);
    case Kind::kCsr:
      return reader.csr(*format, expected.order);
    case Kind::kCompact:
      return reader.compact(*format, expected.order);
    case Kind::kQuantized:
      return reader.quantized(*format);
    default:
      return invalid_input(fmt::format("{}: tensor {}: expected a matrix, found a stack",
                                       checkpoint.directory(), quote(name)));
  }
}

}  // namespace tessera
