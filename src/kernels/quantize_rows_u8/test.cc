#include <cmath>
#include <limits>

#include "base/device.h"
#include "formats/u8_rows.h"
#include "kernels/quantize_rows_u8/quantize_rows_u8.h"
#include "kernels/testing.h"

namespace tessera::quantize_rows_u8 {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr uint8_t kUntouched = 0xa5;

// Rows to round. x and the multipliers end exactly behind their last value.
struct Problem {
  Problem(int64_t count, int64_t size, uint32_t seed) : rows(count), inputs(size) {
    const int64_t stride = inputs + 3;
    x = testing::random_values((rows - 1) * stride + inputs, seed, 3.0f);
    multipliers = testing::random_values(inputs, seed + 1);
    args = {.x = x.data(), .x_stride = stride, .inputs = inputs, .multipliers = multipliers.data()};
  }
  float value(int64_t m, int64_t k) const {
    const float one = x[static_cast<size_t>(m * args.x_stride + k)];
    return args.multipliers == nullptr ? one : one * multipliers[static_cast<size_t>(k)];
  }

  int64_t rows, inputs;
  std::vector<float> x, multipliers;
  Args args;
};

// What a kernel made, in a block of which all is written first.
struct Quantized {
  Quantized(const Problem& problem, const KernelRow<Args>& row)
      : layout(u8_rows_layout(problem.rows, problem.inputs)),
        block(host_device().allocate(static_cast<size_t>(layout.bytes))),
        rows(rows_in(block.data(), layout)) {
    std::fill(block.as<uint8_t>(), block.as<uint8_t>() + layout.bytes, kUntouched);
    Args args = problem.args;
    args.values = block.as<uint8_t>();
    args.stride = layout.stride;
    args.scales = reinterpret_cast<float*>(block.as<char>() + layout.scales);
    args.zeros = reinterpret_cast<int32_t*>(block.as<char>() + layout.zeros);
    const int64_t middle = problem.rows / 2;
    row.run(args, {middle, problem.rows});
    row.run(args, {0, middle});
  }
  bool same(const Quantized& other) const {
    return std::equal(block.as<char>(), block.as<char>() + layout.bytes, other.block.as<char>());
  }

  U8RowsLayout layout;
  Buffer block;
  U8Rows rows;
};

// The header's bound, that 0 is exact, and the padding.
void check_values(const Problem& problem, const Quantized& quantized) {
  const U8Rows& rows = quantized.rows;
  for (int64_t m = 0; m < problem.rows; ++m) {
    const uint8_t* values = rows.values + m * rows.stride;
    const double scale = rows.scales[m];
    for (int64_t k = 0; k < problem.inputs; ++k) {
      const double found = scale * (values[k] - rows.zeros[m]);
      ASSERT_NEAR(problem.value(m, k), found, (0.5 + 0x1p-13) * scale) << "row " << m << " " << k;
    }
    for (int64_t k = problem.inputs; k < rows.stride; ++k) {
      const bool padding = k < u8_padded_inputs(problem.inputs);
      ASSERT_EQ(values[k], padding ? rows.zeros[m] : kUntouched) << "row " << m << " " << k;
    }
  }
}

void check_fast_rows(const Problem& problem, const Quantized& expected) {
  testing::for_each_fast_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
    const Quantized found(problem, row);
    for (int64_t m = 0; m < problem.rows; ++m) {
      ASSERT_EQ(expected.rows.zeros[m], found.rows.zeros[m]) << "row " << m;
    }
    ASSERT_TRUE(expected.same(found));
  });
}

TEST(U8Rows, LayoutIsAlignedAndKeepsRowsApart) {
  for (const int64_t rows : {0, 1, 16, 17, 128}) {
    for (const int64_t inputs : {1, 63, 64, 65, 768, 3072, 4096}) {
      const U8RowsLayout layout = u8_rows_layout(rows, inputs);
      EXPECT_EQ(layout.stride % 64, 0);
      EXPECT_NE(layout.stride % 4096, 0);
      EXPECT_GE(layout.stride, u8_padded_inputs(inputs));
      EXPECT_GE(layout.scales, rows * layout.stride);
      EXPECT_GE(layout.zeros, layout.scales + 4 * rows);
      EXPECT_GE(layout.bytes, layout.zeros + 4 * rows);
      EXPECT_EQ(layout.scales % 64 + layout.zeros % 64 + layout.bytes % 64, 0);
    }
  }
}

TEST(U8Rows, EveryRowGivesTheBitsOfRef) {
  std::vector<int64_t> sizes = testing::kSizes;
  sizes.insert(sizes.end(), {768, 3072, 4101});
  uint32_t seed = 1;
  for (const int64_t inputs : sizes) {
    for (const bool multiplied : {false, true}) {
      SCOPED_TRACE(testing::seed_trace(++seed) + ", inputs " + std::to_string(inputs));
      Problem problem(5, inputs, seed);
      if (!multiplied) problem.args.multipliers = nullptr;
      const Quantized expected(problem, kernels.rows().back());
      ASSERT_NO_FATAL_FAILURE(check_values(problem, expected));
      ASSERT_NO_FATAL_FAILURE(check_fast_rows(problem, expected));
    }
  }
}

TEST(U8Rows, RangesAtTheirEnds) {
  const float largest = std::numeric_limits<float>::max();
  const std::vector<std::vector<float>> cases = {
      {0, 0, 0},           {-0.0f, -0.0f, 0},     {1, 2, 255},
      {-1, -2, -255},      {1e-40f, 0, 0},        {-1e-45f, 0, 0},
      {largest, -largest}, {largest, largest, 1}, {-127.5f, 127.5f, 0.5f}};
  for (const std::vector<float>& values : cases) {
    Problem problem(1, static_cast<int64_t>(values.size()), 1);
    problem.args.multipliers = nullptr;
    std::copy(values.begin(), values.end(), problem.x.begin());
    SCOPED_TRACE(values[0]);
    const Quantized expected(problem, kernels.rows().back());
    ASSERT_NO_FATAL_FAILURE(check_values(problem, expected));
    ASSERT_NO_FATAL_FAILURE(check_fast_rows(problem, expected));
  }
}

TEST(U8Rows, WhatIsNotFiniteStaysInItsRow) {
  for (const float value : {kInfinity, -kInfinity, kNaN}) {
    for (const int64_t inputs : {1, 16, 33, 70}) {
      for (const int64_t place : {int64_t{0}, inputs / 2, inputs - 1}) {
        Problem problem(3, inputs, 5);
        problem.x[static_cast<size_t>(problem.args.x_stride + place)] = value;
        for (const KernelRow<Args>& row : kernels.rows()) {
          if (!hardware_has(row.isa)) continue;
          SCOPED_TRACE(std::string(row.name) + ", inputs " + std::to_string(inputs));
          const Quantized found(problem, row);
          EXPECT_TRUE(std::isnan(found.rows.scales[1]));
          EXPECT_EQ(found.rows.zeros[1], 0);
          for (int64_t k = 0; k < u8_padded_inputs(inputs); ++k)
            ASSERT_EQ(found.rows.values[found.rows.stride + k], 0);
          EXPECT_TRUE(std::isfinite(found.rows.scales[0]) && std::isfinite(found.rows.scales[2]));
        }
      }
    }
  }
}

}  // namespace
}  // namespace tessera::quantize_rows_u8
