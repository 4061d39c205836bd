#include <bit>
#include <cmath>
#include <limits>

#include "base/dtype.h"
#include "kernels/rows_to_bf16/rows_to_bf16.h"
#include "kernels/testing.h"

namespace tessera::rows_to_bf16 {
namespace {

constexpr uint16_t kUntouched = 0xabcd;

int64_t padded(int64_t inputs) { return (inputs + kMultiple - 1) / kMultiple * kMultiple; }

// Rounds rows [1, rows) and gives all of y.
std::vector<uint16_t> run(const KernelRow<Args>& row, const std::vector<float>& x, int64_t rows,
                          int64_t inputs, int64_t x_stride) {
  const int64_t y_stride = padded(inputs) + 3;
  std::vector<uint16_t> y(static_cast<size_t>(rows * y_stride), kUntouched);
  row.run(
      {.x = x.data(), .x_stride = x_stride, .inputs = inputs, .y = y.data(), .y_stride = y_stride},
      {1, rows});
  return y;
}

TEST(Bf16Rows, RefRoundsToNearestEvenAndPads) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  // 1 + 2^-8 lies half way between 1 and 1 + 2^-7, 1 + 3 * 2^-8 between 1 + 2^-7 and 1 + 2^-6.
  const std::vector<float> x = {1.0f,
                                1 + 0x1p-8f,
                                1 + 0x3p-8f,
                                -(1 + 0x1.02p-8f),
                                0x1p-127f,
                                -0x1p-149f,
                                std::numeric_limits<float>::max(),
                                -kInfinity};
  const std::vector<float> expected = {1.0f, 1.0f,  1 + 0x1p-6f, -(1 + 0x1p-7f),
                                       0.0f, -0.0f, kInfinity,   -kInfinity};
  std::vector<uint16_t> y(32, kUntouched);
  ref({.x = x.data(), .x_stride = 8, .inputs = 8, .y = y.data(), .y_stride = 32}, {0, 1});
  for (size_t i = 0; i < 32; ++i) {
    const float wanted = i < 8 ? expected[i] : 0.0f;
    EXPECT_EQ(std::bit_cast<uint32_t>(wanted), std::bit_cast<uint32_t>(bf16_to_f32(y[i]))) << i;
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  ref({.x = &nan, .x_stride = 1, .inputs = 1, .y = y.data(), .y_stride = 32}, {0, 1});
  EXPECT_TRUE(std::isnan(bf16_to_f32(y[0])));
}

// Values of every magnitude, all kinds of special ones among them.
std::vector<float> random_bits(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = std::bit_cast<float>(static_cast<uint32_t>(generator()));
  const uint32_t special[] = {0x7f800000, 0xff800000, 0x7f800001, 0xffffffff, 0x7fc00000,
                              0x007fffff, 0x00800000, 0x80000001, 0x00000000, 0x7f7fffff,
                              0x3f808000, 0x3f818000, 0x3f807fff, 0x3f808001};
  for (size_t i = 0; i < values.size(); i += 3) {
    values[i] = std::bit_cast<float>(special[i / 3 % std::size(special)]);
  }
  return values;
}

TEST(Bf16Rows, EveryRowGivesTheBitsOfRef) {
  uint32_t seed = 1;
  for (const int64_t inputs : testing::kSizes) {
    for (const int64_t rows : {2, 5}) {
      const int64_t x_stride = inputs + 3;
      // x ends with the last input, so that a sanitizer sees a read beyond it.
      const std::vector<float> x = random_bits((rows - 1) * x_stride + inputs, ++seed);
      const std::vector<uint16_t> expected = run(kernels.rows().back(), x, rows, inputs, x_stride);
      testing::for_each_fast_row(kernels, Args{}, [&](const KernelRow<Args>& row) {
        SCOPED_TRACE(std::to_string(inputs) + " inputs, " + testing::seed_trace(seed));
        EXPECT_EQ(expected, run(row, x, rows, inputs, x_stride));
      });
    }
  }
}

// The header's bound, against the exact value.
TEST(Bf16Rows, WithinHalfAUnit) {
  constexpr uint32_t kSeed = 5;
  const std::vector<float> x = testing::random_values(2 * 257, kSeed);
  for (const KernelRow<Args>& row : kernels.rows()) {
    if (!hardware_has(row.isa)) continue;
    SCOPED_TRACE(row.name + std::string(", ") + testing::seed_trace(kSeed));
    const std::vector<uint16_t> y = run(row, x, 2, 257, 257);
    for (size_t k = 0; k < 257; ++k) {
      const float value = x[257 + k];
      EXPECT_NEAR(value, bf16_to_f32(y[static_cast<size_t>(padded(257) + 3) + k]),
                  std::fabs(value) * 0x1p-8f + 0x1p-126f);
    }
  }
}

}  // namespace
}  // namespace tessera::rows_to_bf16
