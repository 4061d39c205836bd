#include "formats/quantized.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "formats/checks.h"
#include "formats/packed.h"
#include "formats/weight_format.h"

namespace tessera {
namespace {

// Scales may stand at any address.
float scale_at(const QuantizedMatrix& matrix, int64_t index) {
  float value = 0;
  const auto* data = static_cast<const char*>(matrix.scales);
  convert_to_f32(data + index * static_cast<int64_t>(size_bytes(matrix.scale_type)),
                 matrix.scale_type, 1, &value);
  return value;
}

}  // namespace

float QuantizedMatrix::scale(int64_t output, int64_t which) const {
  return scale_at(*this, output * groups() + which);
}

int32_t QuantizedMatrix::integer(int64_t output, int64_t input) const {
  const auto* row = static_cast<const uint8_t*>(values) + output * row_bytes();
  if (bits(precision) == 8) return static_cast<int8_t>(row[input]);
  return (input % 2 == 0 ? row[input / 2] & 0xf : row[input / 2] >> 4) - 8;
}

Status validate(const QuantizedMatrix& matrix) {
  TESSERA_RETURN_IF_ERROR(check_extents(matrix.rows, matrix.cols));
  if (!is_quantized(matrix.precision)) {
    return invalid_input(
        fmt::format("precision: expected int8, int4, w8 or w4, found {}", name(matrix.precision)));
  }
  if (matrix.group < 0 || matrix.group > matrix.cols) {
    return invalid_input(
        fmt::format("group: expected 0 to {} inputs, found {}", matrix.cols, matrix.group));
  }
  if (matrix.scale_type != DType::kF32 && matrix.scale_type != DType::kF16) {
    return invalid_input(
        fmt::format("scales: expected F32 or F16, found {}", name(matrix.scale_type)));
  }
  const int64_t count = matrix.rows * matrix.groups();
  for (int64_t i = 0; i < count; ++i) {
    if (const float scale = scale_at(matrix, i); !std::isfinite(scale))
      return invalid_input(
          fmt::format("scales: expected finite values, found {} at index {}", scale, i));
  }
  TESSERA_RETURN_IF_ERROR(check_input_scales(matrix.input_scales, matrix.cols));
  const auto* values = static_cast<const uint8_t*>(matrix.values);
  for (int64_t o = 0; bits(matrix.precision) == 4 && matrix.cols % 2 == 1 && o < matrix.rows; ++o) {
    if (const int found = values[(o + 1) * matrix.row_bytes() - 1] >> 4; found != 0)
      return invalid_input(
          fmt::format("values: expected 0 behind the last input of output {}, found {}", o, found));
  }
  if (bits(matrix.precision) == 8) {
    const auto size = static_cast<size_t>(matrix.rows * matrix.cols);
    if (const void* found = std::memchr(values, 0x80, size); found != nullptr)
      return invalid_input(fmt::format("values: expected -127 to 127, found -128 at index {}",
                                       static_cast<const uint8_t*>(found) - values));
  }
  return {};
}

void to_dense(const QuantizedMatrix& matrix, void* target) {
  auto* value = static_cast<float*>(target);
  const int64_t group = matrix.group == 0 ? matrix.cols : matrix.group;
  for (int64_t o = 0; o < matrix.rows; ++o) {
    for (int64_t i = 0; i < matrix.cols; ++i, ++value) {
      const double whole = double{matrix.scale(o, i / group)} * matrix.integer(o, i);
      *value = static_cast<float>(matrix.input_scales == nullptr ? whole
                                                                 : whole / matrix.input_scales[i]);
    }
  }
}

int64_t flops_per_row(const QuantizedMatrix& matrix) { return 2 * matrix.rows * matrix.cols; }

namespace {

// The precisions that are integers, in the order of Precision.
constexpr std::string_view kPrecisions[] = {"int8", "int4", "w8", "w4"};
constexpr auto kFirst = static_cast<int64_t>(Precision::kInt8);
constexpr AttributeSpec kAttributes[] = {
    {.key = "precision", .kind = AttributeSpec::Kind::kWord, .words = kPrecisions},
    {.key = "group", .least = 0, .most = kMaxMatrixExtent}};

enum : size_t { kValues, kScales, kInputScales };
constexpr PartSpec kParts[] = {
    {".values"}, {".scales"}, {".input_scales", PartSpec::Presence::kOptional}};

PartRule rule(const StoredMatrix& matrix, size_t index) {
  const QuantizedMatrix shape{.precision = static_cast<Precision>(kFirst + matrix.attributes[0][0]),
                              .rows = matrix.rows,
                              .cols = matrix.cols,
                              .group = static_cast<int32_t>(matrix.attributes[1][0])};
  switch (index) {
    case kValues:
      return {bits(shape.precision) == 8 ? PartType::kI8 : PartType::kU8,
              {shape.rows, shape.row_bytes()}};
    case kScales:
      return {PartType::kFloats, {shape.rows, shape.groups()}};
    default:
      return {PartType::kF32, {shape.cols}};
  }
}

}  // namespace

QuantizedMatrix QuantizedMatrix::of(const StoredMatrix& matrix) {
  return {.values = matrix.part(kValues).data,
          .precision = static_cast<Precision>(kFirst + matrix.attributes[0][0]),
          .rows = matrix.rows,
          .cols = matrix.cols,
          .group = static_cast<int32_t>(matrix.attributes[1][0]),
          .scales = matrix.part(kScales).data,
          .scale_type = matrix.part(kScales).dtype,
          .input_scales = matrix.data<float>(kInputScales)};
}

QuantizedMatrix::operator StoredMatrix() const {
  StoredMatrix stored{&kFormat, rows, cols, MatrixOrder::kOutputRows, {}, {}};
  stored.attributes = {{static_cast<int64_t>(precision) - kFirst, 0}, {group, 0}};
  stored.parts = {{values, bits(precision) == 8 ? DType::kI8 : DType::kU8, {rows, row_bytes()}},
                  {scales, scale_type, {rows, groups()}},
                  {}};
  if (input_scales != nullptr) stored.parts[kInputScales] = {input_scales, DType::kF32, {cols}};
  return stored;
}

constinit const WeightFormat weight_formats::quantized = {
    .name = "quantized",
    .attributes = kAttributes,
    .parts = kParts,
    .rows = WeightFormat::Rows::kOutputs,
    .rule = rule,
    .validate = [](const StoredMatrix& matrix) { return validate(get<QuantizedMatrix>(matrix)); },
    .to_dense = [](const StoredMatrix& matrix,
                   void* target) { to_dense(get<QuantizedMatrix>(matrix), target); },
    .flops_per_row =
        [](const StoredMatrix& matrix) { return flops_per_row(get<QuantizedMatrix>(matrix)); },
    .pack = [](const DenseView& dense) -> Result<PackedMatrix> {
      return pack_quantized(dense, Precision::kW4, default_group(Precision::kW4));
    },
};

}  // namespace tessera
