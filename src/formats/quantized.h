#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/status.h"
#include "formats/dense.h"
#include "formats/precision.h"

namespace tessera {

// A matrix W of y = W x as integers with scales,
//   W[o, i] = scale[o, i / group] * q[o, i] / input_scale[i]
// always by outputs, whatever order its checkpoint has dense ones in. The memory belongs to the
// checkpoint, or to a QuantizedStorage.
//   values:  8 bits: int8 [outputs, inputs], -127 to 127
//            4 bits: [outputs, (inputs + 1) / 2], q + 8 with q from -8 to 7, input 2 i in the low
//            half of byte i; the half behind an odd last input is 0
//   scales:  [outputs, groups()], finite
//   input_scales: [inputs] or null (all 1): x is multiplied by 1 / these before it is rounded, so
//            that inputs with outliers do not coarsen the others (SmoothQuant); of integer rows
struct QuantizedMatrix {
  const void* values = nullptr;
  Precision precision = Precision::kInt8;  // one that is_quantized
  int64_t rows = 0;                        // outputs
  int64_t cols = 0;                        // inputs
  int32_t group = 0;                       // inputs that share a scale; 0: all of an output's
  const void* scales = nullptr;
  DType scale_type = DType::kF32;  // or f16
  const float* input_scales = nullptr;

  int64_t outputs() const { return rows; }
  int64_t inputs() const { return cols; }
  int64_t groups() const { return group == 0 ? 1 : (cols + group - 1) / group; }
  int64_t row_bytes() const { return bits(precision) == 8 ? cols : (cols + 1) / 2; }
  float scale(int64_t output, int64_t group) const;
  int32_t integer(int64_t output, int64_t input) const;  // q

  static constexpr const WeightFormat& kFormat = weight_formats::quantized;
  static QuantizedMatrix of(const StoredMatrix& matrix);
  operator StoredMatrix() const;
};

// Extents, group and precision, finite scales, and the half byte behind an odd last input.
Status validate(const QuantizedMatrix& matrix);
// target: f32 [outputs, inputs], every element is written; each value is rounded once.
void to_dense(const QuantizedMatrix& matrix, void* target);
int64_t flops_per_row(const QuantizedMatrix& matrix);

}  // namespace tessera
