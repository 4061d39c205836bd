#include <cmath>
#include <limits>

#include "kernels/norm/norm.h"
#include "kernels/testing.h"

namespace tessera::norm {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();

void check_against_ref(Kind kind, int64_t cols, bool with_bias, uint32_t seed) {
  SCOPED_TRACE(testing::seed_trace(seed) + ", cols " + std::to_string(cols));
  const int64_t rows = 3, stride = cols + 5;
  const std::vector<float> x = testing::random_values(rows * stride, seed, 3.0f);
  const std::vector<float> weight = testing::random_values(cols, seed + 1);
  const std::vector<float> bias = testing::random_values(cols, seed + 2);
  std::vector<float> expected(static_cast<size_t>(rows * cols)), found(expected.size());
  Args args{.kind = kind,
            .x = x.data(),
            .x_stride = stride,
            .cols = cols,
            .weight = weight.data(),
            .bias = with_bias ? bias.data() : nullptr,
            .weight_offset = 0.5f,
            .eps = 1e-5f,
            .y = expected.data(),
            .y_stride = cols};
  ref(args, {0, rows});
  args.y = found.data();
  testing::for_each_fast_row(kernels, args, [&](const KernelRow<Args>& row) {
    std::fill(found.begin(), found.end(), std::numeric_limits<float>::quiet_NaN());
    row.run(args, {0, 1});
    row.run(args, {1, rows});
    for (size_t i = 0; i < found.size(); ++i) {
      // Values are at most about 12 deviations wide, and so is the mean that is subtracted.
      const float bound =
          (static_cast<float>(cols) / 8 + 8) * kEpsilon * (std::abs(expected[i]) + 12);
      ASSERT_NEAR(expected[i], found[i], bound) << "element " << i;
    }
  });
}

TEST(Norm, EveryRowAgreesWithRef) {
  for (int64_t cols : testing::kSizes) {
    check_against_ref(Kind::kLayer, cols, true, 1);
    check_against_ref(Kind::kLayer, cols, false, 2);
    check_against_ref(Kind::kRms, cols, false, 3);
  }
  check_against_ref(Kind::kLayer, 4096, true, 4);
  check_against_ref(Kind::kRms, 4096, false, 5);
}

TEST(Norm, InPlace) {
  const int64_t cols = 70;
  std::vector<float> weight(static_cast<size_t>(cols), 1.0f);
  const std::vector<float> x = testing::random_values(cols, 9);
  std::vector<float> apart(x.size()), within = x;
  Args args{.kind = Kind::kRms,
            .x = x.data(),
            .x_stride = cols,
            .cols = cols,
            .weight = weight.data(),
            .eps = 1e-6f,
            .y = apart.data(),
            .y_stride = cols};
  kernels.run(args, {0, 1});
  args.x = args.y = within.data();
  kernels.run(args, {0, 1});
  EXPECT_EQ(apart, within);
}

TEST(Norm, ConstantRowGivesTheBias) {
  const int64_t cols = 33;
  std::vector<float> x(33, 7.0f), weight(33, 2.0f), bias(33, 0.25f), y(33);
  const Args args{.kind = Kind::kLayer,
                  .x = x.data(),
                  .x_stride = cols,
                  .cols = cols,
                  .weight = weight.data(),
                  .bias = bias.data(),
                  .eps = 1e-5f,
                  .y = y.data(),
                  .y_stride = cols};
  for (const KernelRow<Args>& row : kernels.rows()) {
    if (!hardware_has(row.isa)) continue;
    row.run(args, {0, 1});
    for (float value : y) EXPECT_FLOAT_EQ(value, 0.25f) << row.name;
  }
}

}  // namespace
}  // namespace tessera::norm
