#include "base/dtype.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace tessera {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr uint32_t kSign16 = 0x8000;

bool is_nan16(uint32_t bits, uint32_t infinity) { return (bits & 0x7fff) > infinity; }

// The value by its definition: sign, exponent of 5 bits with bias 15, fraction of 10 bits.
double f16_by_definition(uint32_t bits) {
  const uint32_t exponent = (bits >> 10) & 31, fraction = bits & 0x3ff;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24)
                           : exponent == 31
                               ? (fraction == 0 ? kInf : NAN)
                               : std::ldexp(1024 + fraction, static_cast<int>(exponent) - 25);
  return (bits & kSign16) != 0 ? -magnitude : magnitude;
}

TEST(DType, NamesAndSizesAgree) {
  const std::array<std::pair<DType, std::pair<std::string, size_t>>, 10> expected = {{
      {DType::kF64, {"F64", 8}},
      {DType::kF32, {"F32", 4}},
      {DType::kF16, {"F16", 2}},
      {DType::kBF16, {"BF16", 2}},
      {DType::kI64, {"I64", 8}},
      {DType::kI32, {"I32", 4}},
      {DType::kI16, {"I16", 2}},
      {DType::kI8, {"I8", 1}},
      {DType::kU8, {"U8", 1}},
      {DType::kBool, {"BOOL", 1}},
  }};
  for (const auto& [dtype, row] : expected) {
    EXPECT_EQ(name(dtype), row.first);
    EXPECT_EQ(size_bytes(dtype), row.second);
    EXPECT_EQ(parse_dtype(row.first), dtype);
  }
  for (const char* unknown : {"", "f32", "F8_E4M3", "F3", "F322"}) {
    EXPECT_EQ(parse_dtype(unknown), std::nullopt) << unknown;
  }
}

TEST(F16, AllValuesAreWhatTheirBitsSay) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float found = f16_to_f32(static_cast<uint16_t>(bits));
    const double expected = f16_by_definition(bits);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << bits;
    } else {
      ASSERT_EQ(found, expected) << bits;
      ASSERT_EQ(std::signbit(found), std::signbit(expected)) << bits;
    }
  }
}

TEST(F16, AllValuesRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint16_t found = f32_to_f16(f16_to_f32(static_cast<uint16_t>(bits)));
    const uint32_t quiet = is_nan16(bits, 0x7c00) ? 0x200 : 0;  // a signalling NaN becomes quiet
    ASSERT_EQ(found, bits | quiet);
  }
}

// Rounding can go wrong only at the midpoints: their even neighbour, and beside them the nearer
// one.
TEST(F16, RoundsToNearestEvenBetweenAllNeighbours) {
  for (uint32_t low = 0; low < 0x7c00; ++low) {
    const double below = f16_by_definition(low);
    const double above = low == 0x7bff ? 65536.0 : f16_by_definition(low + 1);
    const float middle = static_cast<float>((below + above) / 2);
    ASSERT_EQ(middle, (below + above) / 2);
    const uint32_t even = low + (low & 1);
    for (const uint32_t sign : {0u, kSign16}) {
      const float direction = sign == 0 ? 1.0f : -1.0f;
      ASSERT_EQ(f32_to_f16(direction * middle), sign | even) << low;
      ASSERT_EQ(f32_to_f16(direction * std::nextafter(middle, 0.0f)), sign | low) << low;
      ASSERT_EQ(f32_to_f16(direction * std::nextafter(middle, kInf)), sign | (low + 1)) << low;
    }
  }
}

TEST(F16, OverflowUnderflowAndNan) {
  EXPECT_EQ(f32_to_f16(65519.996f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(-std::numeric_limits<float>::max()), 0xfc00);
  EXPECT_EQ(f32_to_f16(kInf), 0x7c00);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(f32_to_f16(-0.0f), 0x8000);
  EXPECT_TRUE(is_nan16(f32_to_f16(std::numeric_limits<float>::quiet_NaN()), 0x7c00));
  // A NaN whose payload lies wholly in the bits that are dropped.
  EXPECT_TRUE(is_nan16(f32_to_f16(std::bit_cast<float>(0xff800001u)), 0x7c00));
}

TEST(Bf16, AllValuesRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = bf16_to_f32(static_cast<uint16_t>(bits));
    ASSERT_EQ(std::bit_cast<uint32_t>(value) >> 16, bits);
    const uint32_t quiet = is_nan16(bits, 0x7f80) ? 0x40 : 0;
    ASSERT_EQ(f32_to_bf16(value), bits | quiet);
  }
}

TEST(Bf16, RoundsToNearestEvenBetweenAllNeighbours) {
  for (uint32_t low = 0; low < 0x7f80; ++low) {
    const uint32_t middle = low << 16 | 0x8000;
    const uint32_t even = low + (low & 1);
    for (const uint32_t sign : {0u, kSign16}) {
      const uint32_t top = sign << 16;
      ASSERT_EQ(f32_to_bf16(std::bit_cast<float>(top | middle)), sign | even) << low;
      ASSERT_EQ(f32_to_bf16(std::bit_cast<float>(top | (middle - 1))), sign | low) << low;
      ASSERT_EQ(f32_to_bf16(std::bit_cast<float>(top | (middle + 1))), sign | (low + 1)) << low;
    }
  }
}

TEST(Bf16, OverflowAndNan) {
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x7f7f7fffu)), 0x7f7f);
  EXPECT_EQ(f32_to_bf16(-kInf), 0xff80);
  EXPECT_TRUE(is_nan16(f32_to_bf16(std::bit_cast<float>(0x7f800001u)), 0x7f80));
  EXPECT_TRUE(is_nan16(f32_to_bf16(std::bit_cast<float>(0xffffffffu)), 0x7f80));
}

// Tensors in files are aligned to nothing; the sizes go around the vector widths.
template <typename T>
void check_conversion(DType dtype, const std::vector<T>& source,
                      const std::vector<float>& expected) {
  for (size_t shift = 0; shift < 3; ++shift) {
    for (size_t n : {size_t{0}, size_t{1}, size_t{7}, size_t{17}, source.size()}) {
      std::vector<char> bytes(shift + n * sizeof(T));
      if (n > 0) std::memcpy(bytes.data() + shift, source.data(), n * sizeof(T));
      std::vector<float> found(n);
      convert_to_f32(bytes.data() + shift, dtype, static_cast<int64_t>(n), found.data());
      for (size_t i = 0; i < n; ++i) {
        ASSERT_TRUE(found[i] == expected[i] || (std::isnan(found[i]) && std::isnan(expected[i])))
            << name(dtype) << " element " << i;
      }
    }
  }
}

TEST(ConvertToF32, EveryFloatingDtypeAtAnyAlignment) {
  std::vector<uint16_t> bits(65536);
  std::vector<float> as_f16(bits.size()), as_bf16(bits.size());
  for (size_t i = 0; i < bits.size(); ++i) {
    bits[i] = static_cast<uint16_t>(i);
    as_f16[i] = static_cast<float>(f16_by_definition(bits[i]));
    as_bf16[i] = std::bit_cast<float>(static_cast<uint32_t>(i) << 16);
  }
  check_conversion(DType::kF16, bits, as_f16);
  check_conversion(DType::kBF16, bits, as_bf16);
  std::vector<double> doubles;
  std::vector<float> floats;
  for (int i = 0; i < 100; ++i) {
    doubles.push_back((i - 50) / 3.0);
    floats.push_back(static_cast<float>(doubles.back()));
  }
  check_conversion(DType::kF64, doubles, floats);
  check_conversion(DType::kF32, floats, floats);
}

}  // namespace
}  // namespace tessera
