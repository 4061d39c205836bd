#include "formats/quantized.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "formats/checks.h"

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

int64_t packed_bytes(const QuantizedMatrix& matrix) {
  return matrix.rows * (matrix.row_bytes() +
                        matrix.groups() * static_cast<int64_t>(size_bytes(matrix.scale_type)));
}

int64_t flops_per_row(const QuantizedMatrix& matrix) { return 2 * matrix.rows * matrix.cols; }

}  // namespace tessera
