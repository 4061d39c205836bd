#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/dtype.h"

namespace tessera {

// In which numbers a linear map is kept and multiplied; all sum in f32 or wider, integers exactly
// within what shares a scale.
//           weights                                     rows
//   kF32    f32                                         f32
//   kBF16   bf16                                        f32, or bf16 where that is faster
//   kInt8   8 bits, a scale for each output             8 bits, a scale and a zero for each row
//   kInt4   4 bits, a scale for each group of inputs    8 bits, a scale for each group
//   kW8     8 bits, a scale for each group of inputs    16 bits, a scale for each group
//   kW4     4 bits, a scale for each group of inputs    16 bits, a scale for each group
// kStored: as the checkpoint has each matrix, dense ones of f16 as f32; rows among floats are f32.
enum class Precision : uint8_t { kStored, kF32, kBF16, kInt8, kInt4, kW8, kW4 };

// "stored", "f32", "bf16", "int8", "int4", "w8", "w4".
std::string_view name(Precision precision);
std::optional<Precision> parse_precision(std::string_view name);

// Whether weights are integers, which `prepare` makes of dense ones.
constexpr bool is_quantized(Precision precision) { return precision >= Precision::kInt8; }
constexpr int32_t bits(Precision precision) {
  return precision == Precision::kInt8 || precision == Precision::kW8 ? 8 : 4;
}
constexpr bool has_integer_rows(Precision precision) {
  return precision == Precision::kInt8 || precision == Precision::kInt4;
}

// In which floats a matrix that holds `stored` is kept, of integers where it is not rounded to
// such: bf16 as it is, all else as f32.
constexpr DType float_type(Precision precision, DType stored) {
  if (precision == Precision::kBF16) return DType::kBF16;
  const bool as_stored = precision == Precision::kStored || is_quantized(precision);
  return as_stored && stored == DType::kBF16 ? DType::kBF16 : DType::kF32;
}

}  // namespace tessera
