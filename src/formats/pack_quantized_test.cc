#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "formats/packed.h"

namespace tessera {
namespace {

std::vector<float> random_values(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

constexpr Precision kPrecisions[] = {Precision::kInt8, Precision::kW8, Precision::kInt4,
                                     Precision::kW4};

// The integer whose product with the scale is nearest, of those there are.
TEST(PackQuantized, EveryIntegerIsTheNearest) {
  for (const Precision precision : kPrecisions) {
    for (const int64_t inputs : {1, 7, 31, 32, 33, 100}) {
      for (const int32_t group : {0, 5, 32, 64}) {
        const std::vector<float> values = random_values(40 * inputs, 3);
        const PackedMatrix packed =
            pack_quantized({values.data(), DType::kF32, 40, inputs}, precision, group).value();
        const auto matrix = get<QuantizedMatrix>(packed.matrix);
        ASSERT_TRUE(validate(matrix).ok()) << validate(matrix).message();
        const int64_t size = matrix.group == 0 ? inputs : matrix.group;
        const int32_t least = bits(precision) == 8 ? -127 : -8,
                      most = bits(precision) == 8 ? 127 : 7;
        for (int64_t o = 0; o < 40; ++o) {
          for (int64_t i = 0; i < inputs; ++i) {
            const double exact =
                double{values[static_cast<size_t>(o * inputs + i)]} / matrix.scale(o, i / size);
            const double expected = std::clamp<double>(exact, least, most);
            // Halves may fall to either side: the quotient is rounded twice.
            ASSERT_NEAR(matrix.integer(o, i), expected, 0.5 + 1e-4)
                << name(precision) << " output " << o << " input " << i;
          }
        }
      }
    }
  }
}

// Against the scale that takes the largest magnitude to the end of the range.
TEST(PackQuantized, ScalesOfFourBitsLeaveLessError) {
  constexpr int64_t kOutputs = 64, kInputs = 512, kGroup = 32;
  const std::vector<float> values = random_values(kOutputs * kInputs, 5);
  const PackedMatrix packed =
      pack_quantized({values.data(), DType::kF32, kOutputs, kInputs}, Precision::kW4, kGroup)
          .value();
  const auto matrix = get<QuantizedMatrix>(packed.matrix);
  double chosen = 0, plain = 0;
  for (int64_t o = 0; o < kOutputs; ++o) {
    for (int64_t g = 0; g < kInputs / kGroup; ++g) {
      const float* group = values.data() + o * kInputs + g * kGroup;
      double extreme = 0, own = 0, other = 0;
      for (int64_t i = 0; i < kGroup; ++i)
        if (std::abs(group[i]) > std::abs(extreme)) extreme = group[i];
      const double scale = extreme / -8;
      for (int64_t i = 0; i < kGroup; ++i) {
        const double q = std::min(std::nearbyint(group[i] / scale), 7.0);
        other += std::pow(group[i] - scale * q, 2);
        own +=
            std::pow(group[i] - double{matrix.scale(o, g)} * matrix.integer(o, g * kGroup + i), 2);
      }
      // One group may lose by the rounding of its scale to 11 bits.
      ASSERT_LE(own, 1.02 * other) << "output " << o << " group " << g;
      chosen += own;
      plain += other;
    }
  }
  EXPECT_LT(chosen, 0.9 * plain);
}

TEST(PackQuantized, OrdersTypesAndTeamsGiveTheSameBits) {
  constexpr int64_t kOutputs = 75, kInputs = 96;
  const std::vector<float> values = random_values(kOutputs * kInputs, 8);
  std::vector<float> turned(values.size());
  std::vector<uint16_t> narrow(values.size());
  std::vector<float> widened(values.size());
  for (int64_t o = 0; o < kOutputs; ++o) {
    for (int64_t i = 0; i < kInputs; ++i) {
      const auto at = static_cast<size_t>(o * kInputs + i);
      turned[static_cast<size_t>(i * kOutputs + o)] = values[at];
      narrow[at] = f32_to_bf16(values[at]);
      widened[at] = bf16_to_f32(narrow[at]);
    }
  }
  Team team(3);
  const auto same = [](const PackedMatrix& a, const PackedMatrix& b) {
    return a.memory == b.memory;
  };
  for (const Precision precision : kPrecisions) {
    const auto pack = [&](const DenseView& dense, Team* of) {
      return pack_quantized(dense, precision, default_group(precision), of).value();
    };
    const PackedMatrix alone = pack({values.data(), DType::kF32, kOutputs, kInputs}, nullptr);
    EXPECT_TRUE(same(alone, pack({values.data(), DType::kF32, kOutputs, kInputs}, &team)));
    EXPECT_TRUE(same(
        alone,
        pack({turned.data(), DType::kF32, kInputs, kOutputs, MatrixOrder::kInputRows}, &team)));
    EXPECT_TRUE(same(pack({widened.data(), DType::kF32, kOutputs, kInputs}, nullptr),
                     pack({narrow.data(), DType::kBF16, kOutputs, kInputs}, &team)));
  }
}

TEST(PackQuantized, ZerosSmallAndLargeValuesAndNone) {
  for (const Precision precision : kPrecisions) {
    for (const float value : {0.0f, 1e-42f, 1e-30f, 1e6f, 1e30f}) {
      const std::vector<float> values(64, value);
      const Result<PackedMatrix> packed =
          pack_quantized({values.data(), DType::kF32, 2, 32}, precision, 16);
      ASSERT_TRUE(packed.ok());
      EXPECT_TRUE(validate(get<QuantizedMatrix>(packed->matrix)).ok()) << value;
      if (value == 0) {
        EXPECT_EQ(get<QuantizedMatrix>(packed->matrix).integer(1, 5), 0);
      }
    }
  }
  std::vector<float> values(64, 1.0f);
  values[40] = std::numeric_limits<float>::infinity();
  for (const Precision precision : kPrecisions)
    EXPECT_FALSE(pack_quantized({values.data(), DType::kF32, 2, 32}, precision, 0).ok());
}

}  // namespace
}  // namespace tessera
