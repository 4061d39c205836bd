#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace tessera {

enum class DType : uint8_t { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

size_t size_bytes(DType dtype);
// The safetensors name: "F32", "BF16", ...
std::string_view name(DType dtype);
std::optional<DType> parse_dtype(std::string_view safetensors_name);

// Whether weights may be stored so.
constexpr bool is_weight_type(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);  // round to nearest even; overflow gives infinity, NaN stays NaN

inline float bf16_to_f32(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
// Rounds to nearest even; NaN stays NaN. Without branches, so that loops over it are vectorised.
inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}

// Converts n values of f64, f32, f16 or bf16, aligned to anything, to f32.
void convert_to_f32(const void* source, DType dtype, int64_t n, float* target);

}  // namespace tessera
