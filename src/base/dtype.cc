#include "base/dtype.h"

#include <array>
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

constexpr uint32_t kInfinity = 0x7f800000;
constexpr uint32_t kRebias = (127u - 15u) << 23;  // between the exponents of f16 and f32

// Without branches, so that loops over it are vectorised.
inline float widened(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16;
  const uint32_t shifted = (bits & 0x7fffu) << 13;
  const uint32_t exponent = bits & 0x7c00u;
  // A subnormal is a fraction m without the leading 1 that f32 implies: (1 + m) - 1 at the least
  // exponent.
  const uint32_t least = kRebias + (1u << 23);
  const float subnormal = std::bit_cast<float>(shifted + least) - std::bit_cast<float>(least);
  const uint32_t normal = shifted + kRebias + (exponent == 0x7c00u ? kRebias : 0);
  const uint32_t magnitude = exponent == 0 ? std::bit_cast<uint32_t>(subnormal) : normal;
  return std::bit_cast<float>(sign | magnitude);
}

// Tensors in files are aligned to nothing.
template <typename T>
T load(const char* bytes, int64_t i) {
  T value;
  std::memcpy(&value, bytes + static_cast<size_t>(i) * sizeof(T), sizeof(T));
  return value;
}

}  // namespace

size_t size_bytes(DType dtype) { return kRows[static_cast<size_t>(dtype)].bytes; }
std::string_view name(DType dtype) { return kRows[static_cast<size_t>(dtype)].name; }

std::optional<DType> parse_dtype(std::string_view safetensors_name) {
  for (const Row& row : kRows) {
    if (row.name == safetensors_name) return row.dtype;
  }
  return std::nullopt;
}

float f16_to_f32(uint16_t bits) { return widened(bits); }

uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > kInfinity)
    return sign | static_cast<uint16_t>(0x7e00 | ((magnitude >> 13) & 0x3ff));
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // from 65520 on, half way to 65536
  if (magnitude < 0x38800000) {
    // Subnormal in f16, where a unit is 2^-24, as it is in [0.5, 1) of f32: the sum rounds, the
    // difference is units.
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return sign |
           static_cast<uint16_t>(std::bit_cast<uint32_t>(sum) - std::bit_cast<uint32_t>(0.5f));
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return sign | static_cast<uint16_t>((rounded - kRebias) >> 13);
}

void convert_to_f32(const void* source, DType dtype, int64_t n, float* target) {
  const auto* bytes = static_cast<const char*>(source);
  switch (dtype) {
    case DType::kF64:
      for (int64_t i = 0; i < n; ++i) target[i] = static_cast<float>(load<double>(bytes, i));
      break;
    case DType::kF16:
      for (int64_t i = 0; i < n; ++i) target[i] = widened(load<uint16_t>(bytes, i));
      break;
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) target[i] = bf16_to_f32(load<uint16_t>(bytes, i));
      break;
    default:
      if (n > 0) std::memcpy(target, source, static_cast<size_t>(n) * sizeof(float));
  }
}

}  // namespace tessera
