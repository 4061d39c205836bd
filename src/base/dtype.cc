#include "base/dtype.h"

#include <array>
#include <cmath>
#include <cstring>

namespace tessera {
namespace {

struct Row {
  DType dtype;
  std::string_view name;
  size_t bytes;
};
constexpr std::array kRows = {
    Row{DType::kF64, "F64", 8},   Row{DType::kF32, "F32", 4}, Row{DType::kF16, "F16", 2},
    Row{DType::kBF16, "BF16", 2}, Row{DType::kI64, "I64", 8}, Row{DType::kI32, "I32", 4},
    Row{DType::kI16, "I16", 2},   Row{DType::kI8, "I8", 1},   Row{DType::kU8, "U8", 1},
    Row{DType::kBool, "BOOL", 1},
};

}  // namespace

size_t size_bytes(DType dtype) { return kRows[static_cast<size_t>(dtype)].bytes; }
std::string_view name(DType dtype) { return kRows[static_cast<size_t>(dtype)].name; }

std::optional<DType> parse_dtype(std::string_view safetensors_name) {
  for (const Row& row : kRows) {
    if (row.name == safetensors_name) return row.dtype;
  }
  return std::nullopt;
}

float f16_to_f32(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 0x1f;
  const uint32_t mantissa = bits & 0x3ff;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal: a unit is 2^-24; the default rounding mode is to nearest even.
    const float units = std::ldexp(std::bit_cast<float>(magnitude), 24);
    return sign | static_cast<uint16_t>(std::lrint(units));
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return sign | static_cast<uint16_t>((rounded - (112u << 23)) >> 13);
}

uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void convert_to_f32(const void* source, DType dtype, int64_t n, float* target) {
  const auto* bits16 = static_cast<const uint16_t*>(source);
  switch (dtype) {
    case DType::kF64:
      for (int64_t i = 0; i < n; ++i) target[i] = static_cast<float>(static_cast<const double*>(source)[i]);
      break;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) target[i] = f16_to_f32(bits16[i]);
      break;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) target[i] = bf16_to_f32(bits16[i]);
      break;
    default:
      std::memcpy(target, source, static_cast<size_t>(n) * sizeof(float));
  }
}

}  // namespace tessera
