#include "formats/quantized.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "formats/packed.h"

namespace tessera {
namespace {

constexpr uint32_t kSeed = 17;
constexpr Precision kPrecisions[] = {Precision::kInt8, Precision::kInt4, Precision::kW8,
                                     Precision::kW4};

std::vector<float> random_values(int64_t count) {
  std::mt19937 generator(kSeed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

void expect_refused(const Status& status, const std::string& part) {
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

TEST(Quantized, RoundsToNearestWithinHalfAStep) {
  constexpr int64_t kRows = 5;
  for (const int64_t cols : {1, 2, 31, 32, 33, 65}) {
    const std::vector<float> values = random_values(kRows * cols);
    for (const Precision precision : kPrecisions) {
      for (const int32_t group : {0, 1, 16, 32, 64, 100}) {
        const auto packed =
            pack_quantized({values.data(), DType::kF32, kRows, cols}, precision, group);
        ASSERT_TRUE(packed.ok()) << packed.status().message();
        const auto matrix = get<QuantizedMatrix>(packed->matrix);
        EXPECT_EQ(matrix.group, group < cols ? group : 0);
        std::vector<float> dense(values.size());
        to_dense(matrix, dense.data());
        for (int64_t o = 0; o < kRows; ++o) {
          for (int64_t i = 0; i < cols; ++i) {
            const auto index = static_cast<size_t>(o * cols + i);
            const float scale = matrix.scale(o, matrix.group == 0 ? 0 : i / matrix.group);
            // 4 bits reach 7 on the side that the largest value is not on: half a step more. A
            // scale of f16 may be short of the largest value by 2^-11 of 127 or 8 steps.
            const double steps = bits(precision) == 8 ? 0.5 + 127 * 0x1p-11 : 1 + 8 * 0x1p-11;
            EXPECT_LE(std::abs(dense[index] - values[index]), steps * std::abs(scale))
                << name(precision) << ", groups of " << group << ", seed " << kSeed;
          }
        }
      }
    }
  }
}

TEST(Quantized, OneByOneOrAtOnceIsTheSame) {
  const std::vector<float> values = random_values(7 * 33);
  for (const Precision precision : kPrecisions) {
    const auto packed = pack_quantized({values.data(), DType::kF32, 7, 33}, precision, 16);
    ASSERT_TRUE(packed.ok());
    const auto matrix = get<QuantizedMatrix>(packed->matrix);
    Integers integers{.precision = precision, .outputs = 7, .inputs = 33, .group = 16};
    for (int64_t o = 0; o < 7; ++o) {
      for (int64_t i = 0; i < 33; ++i)
        integers.values.push_back(static_cast<int8_t>(matrix.integer(o, i)));
      for (int64_t g = 0; g < 3; ++g) integers.scales.push_back(matrix.scale(o, g));
    }
    const PackedMatrix again = pack_integers(integers);
    EXPECT_EQ(again.memory, packed->memory) << name(precision);
    integers.input_scales.assign(33, 0.5f);
    const PackedMatrix scaled = pack_integers(integers);
    const PackedMatrix copy = copy_of(scaled.matrix);
    EXPECT_EQ(copy.memory, scaled.memory);
    EXPECT_NE(copy.memory[2].data(), scaled.memory[2].data());
    EXPECT_EQ(copy.memory[0], packed->memory[0]);
    EXPECT_EQ(copy.memory[1], packed->memory[1]);
    std::vector<float> plain(values.size()), doubled(values.size());
    to_dense(again.matrix, plain.data());
    to_dense(copy.matrix, doubled.data());
    for (size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(doubled[i], 2 * plain[i]);
  }
}

TEST(Quantized, AMatrixOfAFileMayBeWrongInEveryPlace) {
  struct Parts {
    std::vector<uint8_t> values = std::vector<uint8_t>(2 * 3);
    std::vector<float> scales = std::vector<float>(2 * 3, 1.0f);
    std::vector<float> input_scales = std::vector<float>(5, 1.0f);
    QuantizedMatrix matrix{values.data(), Precision::kW4,     2, 5, 2, scales.data(),
                           DType::kF32,   input_scales.data()};
  };
  EXPECT_TRUE(validate(Parts().matrix).ok()) << validate(Parts().matrix).message();
  const auto changed = [](auto change) {
    Parts parts;
    change(parts);
    return validate(parts.matrix);
  };
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  expect_refused(changed([](Parts& p) { p.matrix.rows = 0; }), "found 0 x 5");
  expect_refused(changed([](Parts& p) { p.matrix.precision = Precision::kBF16; }), "found bf16");
  expect_refused(changed([](Parts& p) { p.matrix.group = 6; }), "group: expected 0 to 5");
  expect_refused(changed([](Parts& p) { p.matrix.group = -1; }), "found -1");
  expect_refused(changed([](Parts& p) { p.matrix.scale_type = DType::kI8; }), "found I8");
  expect_refused(changed([](Parts& p) { p.scales[5] = NAN; }), "found nan at index 5");
  expect_refused(changed([](Parts& p) { p.scales[0] = -kInfinity; }), "found -inf at index 0");
  expect_refused(changed([](Parts& p) { p.input_scales[4] = 0; }), "found 0 at index 4");
  expect_refused(changed([](Parts& p) { p.input_scales[0] = kInfinity; }), "found inf at index 0");
  expect_refused(changed([](Parts& p) { p.values[5] = 0x10; }),
                 "behind the last input of output 1, found 1");
  std::vector<int8_t> bytes = {0, 127, -127, -128};
  const std::vector<float> scales = {1, 1};
  const QuantizedMatrix matrix{bytes.data(), Precision::kInt8, 2, 2, 0, scales.data()};
  expect_refused(validate(matrix), "found -128 at index 3");
  bytes[3] = -1;
  EXPECT_TRUE(validate(matrix).ok());
}

}  // namespace
}  // namespace tessera
