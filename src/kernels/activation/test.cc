#include <cmath>
#include <limits>

#include "kernels/activation/activation.h"
#include "kernels/testing.h"

namespace tessera::activation {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr Activation kAll[] = {Activation::kNone,     Activation::kRelu, Activation::kGeluErf,
                               Activation::kGeluTanh, Activation::kSilu, Activation::kTanh};

std::string text(Activation function) {
  return "activation " + std::to_string(static_cast<int>(function));
}

void check_against_ref(Activation function, int64_t cols, uint32_t seed) {
  SCOPED_TRACE(text(function) + ", cols " + std::to_string(cols) + ", " +
               testing::seed_trace(seed));
  const int64_t rows = 3, stride = cols + 3;
  const std::vector<float> x = testing::random_values(rows * stride, seed, 3.0f);
  const std::vector<float> up = testing::random_values(rows * stride, seed + 1);
  for (const float* gate : {static_cast<const float*>(nullptr), up.data()}) {
    std::vector<float> expected(static_cast<size_t>(rows * stride), kNaN);
    Args args{.function = function,
              .x = x.data(),
              .x_stride = stride,
              .up = gate,
              .up_stride = stride,
              .cols = cols,
              .y = expected.data(),
              .y_stride = stride};
    ref(args, {0, rows});
    testing::for_each_fast_row(kernels, args, [&](const KernelRow<Args>& row) {
      std::vector<float> found(expected.size(), kNaN);
      args.y = found.data();
      row.run(args, {0, 1});
      row.run(args, {1, rows});
      for (int64_t i = 0; i < rows * stride; ++i) {
        if (i % stride >= cols) {
          ASSERT_TRUE(std::isnan(found[i])) << "wrote outside at " << i;
          continue;
        }
        const float factor = gate != nullptr ? std::abs(gate[i]) : 1.0f;
        const float bound = 8 * kEpsilon * std::max(std::abs(expected[i]), std::abs(x[i]) * factor);
        ASSERT_NEAR(expected[i], found[i], bound) << "x " << x[i];
      }
    });
  }
}

TEST(Activation, EveryRowAgreesWithRef) {
  uint32_t seed = 1;
  for (Activation function : kAll) {
    for (int64_t cols : testing::kSizes) check_against_ref(function, cols, seed++);
    check_against_ref(function, 4096, seed++);
  }
}

TEST(Activation, KeepsTheBoundOverTheWholeRange) {
  std::vector<float> x;
  for (float magnitude = 1e-42f; magnitude < 3e38f; magnitude *= 1.0137f) {
    x.push_back(magnitude);
    x.push_back(-magnitude);
  }
  for (float value = -20; value <= 20; value += 1.0f / 512) x.push_back(value);
  for (float value : {0.0f, -0.0f, 1e4f, -1e4f}) x.push_back(value);
  std::vector<float> expected(x.size()), found(x.size());
  for (Activation function : kAll) {
    SCOPED_TRACE(text(function));
    Args args{.function = function,
              .x = x.data(),
              .cols = static_cast<int64_t>(x.size()),
              .y = expected.data()};
    ref(args, {0, 1});
    args.y = found.data();
    testing::for_each_fast_row(kernels, args, [&](const KernelRow<Args>& row) {
      row.run(args, {0, 1});
      for (size_t i = 0; i < x.size(); ++i) {
        // Half the smallest denormal is the rounding of a result that has no eps of its own.
        const double bound =
            8.0 * kEpsilon * std::max(std::abs(expected[i]), std::abs(x[i])) + 1.5e-45;
        ASSERT_LE(std::abs(double{expected[i]} - found[i]), bound) << "x " << x[i];
      }
    });
  }
}

TEST(Activation, LimitsAndNotANumber) {
  const std::vector<float> x = {kInfinity, -kInfinity, kNaN, 1.0f};
  for (Activation function : kAll) {
    SCOPED_TRACE(text(function));
    const bool none = function == Activation::kNone, tanh = function == Activation::kTanh;
    for (const KernelRow<Args>& row : kernels.rows()) {
      if (!hardware_has(row.isa)) continue;
      std::vector<float> y(x.size());
      row.run({.function = function, .x = x.data(), .cols = 4, .y = y.data()}, {0, 1});
      EXPECT_EQ(y[0], tanh ? 1.0f : kInfinity) << row.name;
      EXPECT_EQ(y[1], none ? -kInfinity : tanh ? -1.0f : 0.0f) << row.name;
      EXPECT_TRUE(std::isnan(y[2])) << row.name;
      EXPECT_FALSE(std::isnan(y[3])) << row.name;
    }
  }
}

TEST(Activation, ReferenceGivesKnownValues) {
  // Phi(1) = 0.8413447460685429, sigmoid(1) = 0.7310585786300049, tanh(1) = 0.7615941559557649;
  // gelu_new(1) from its formula with 30 digits.
  const float x = 1.0f;
  float y = 0;
  const auto at_one = [&](Activation function) {
    ref({.function = function, .x = &x, .cols = 1, .y = &y}, {0, 1});
    return y;
  };
  EXPECT_FLOAT_EQ(at_one(Activation::kGeluErf), 0.8413447460685429f);
  EXPECT_FLOAT_EQ(at_one(Activation::kGeluTanh), 0.8411919906082768f);
  EXPECT_FLOAT_EQ(at_one(Activation::kSilu), 0.7310585786300049f);
  EXPECT_FLOAT_EQ(at_one(Activation::kTanh), 0.7615941559557649f);
}

TEST(Activation, InPlaceOverEitherInput) {
  const int64_t cols = 37;
  const std::vector<float> x = testing::random_values(cols, 5),
                           up = testing::random_values(cols, 6);
  std::vector<float> apart(x.size()), over_x = x, over_up = up;
  Args args{.function = Activation::kSilu,
            .x = x.data(),
            .up = up.data(),
            .cols = cols,
            .y = apart.data()};
  kernels.run(args, {0, 1});
  args.x = args.y = over_x.data();
  kernels.run(args, {0, 1});
  EXPECT_EQ(apart, over_x);
  args.x = x.data();
  args.up = args.y = over_up.data();
  kernels.run(args, {0, 1});
  EXPECT_EQ(apart, over_up);
}

}  // namespace
}  // namespace tessera::activation
