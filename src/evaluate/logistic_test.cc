#include "evaluate/logistic.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace tessera::evaluation {
namespace {

TEST(LogisticRegression, FindsTheMinimumOfOneWeight) {
  // x = -1 (label 0) and 1 (label 1): the intercept is 0 and w the root of w = 2 C / (1 + exp(w)),
  // by symmetry. A row x is then positive iff x > 0.
  const std::vector<float> values = {-1, 1};
  const std::vector<int32_t> expected = {0, 1};
  const auto model = LogisticRegression::fit({values, expected, 1, 2}, 1, {});
  ASSERT_TRUE(model.ok()) << model.status().message();
  double w = 0;
  for (int i = 0; i < 200; ++i) w = 0.5 * (w + 2 / (1 + std::exp(w)));
  EXPECT_NEAR(model->weights()[0], w, 1e-5);
  EXPECT_NEAR(model->weights()[1], 0, 1e-5);
  EXPECT_EQ(model->predict(std::vector<float>{0.1F}), 1);
  EXPECT_EQ(model->predict(std::vector<float>{-0.1F}), 0);
}

// The gradient of the objective at the solution, by its definition.
TEST(LogisticRegression, LeavesNoGradientForThreeLabels) {
  constexpr size_t kRows = 60, kWidth = 5, kLabels = 3;
  constexpr double kStrength = 2;
  std::mt19937 generator(11);
  std::normal_distribution<float> normal;
  std::vector<float> values(kRows * kWidth);
  std::vector<int32_t> expected;
  for (float& value : values) value = normal(generator);
  for (size_t i = 0; i < kRows; ++i) {
    expected.push_back(static_cast<int32_t>(i % kLabels));
    values[i * kWidth + i % kLabels] += 1;
  }
  const auto model = LogisticRegression::fit({values, expected, kWidth, kLabels}, kStrength, {});
  ASSERT_TRUE(model.ok()) << model.status().message();
  const std::span<const double> w = model->weights();
  std::vector<double> gradient(w.size());
  for (size_t i = 0; i < w.size(); ++i) {
    if (i % (kWidth + 1) != kWidth) gradient[i] = w[i];
  }
  for (size_t r = 0; r < kRows; ++r) {
    double shares[kLabels], sum = 0;
    for (size_t k = 0; k < kLabels; ++k) {
      double score = w[k * (kWidth + 1) + kWidth];
      for (size_t i = 0; i < kWidth; ++i) score += w[k * (kWidth + 1) + i] * values[r * kWidth + i];
      sum += shares[k] = std::exp(score);
    }
    for (size_t k = 0; k < kLabels; ++k) {
      const double slope =
          kStrength * (shares[k] / sum - (static_cast<size_t>(expected[r]) == k ? 1 : 0));
      for (size_t i = 0; i < kWidth; ++i) {
        gradient[k * (kWidth + 1) + i] += slope * values[r * kWidth + i];
      }
      gradient[k * (kWidth + 1) + kWidth] += slope;
    }
  }
  // 1e-6 of the mean loss, see fit().
  for (const double slope : gradient) EXPECT_NEAR(slope, 0, 1e-6 * kStrength * kRows * 1.01);
}

TEST(LogisticRegression, RefusesOneClass) {
  const std::vector<float> values = {1, 2};
  const std::vector<int32_t> expected = {1, 1};
  EXPECT_FALSE(LogisticRegression::fit({values, expected, 1, 2}, 1, {}).ok());
  const std::vector<int32_t> both = {0, 1};
  EXPECT_FALSE(LogisticRegression::fit({values, both, 1, 2}, 0, {}).ok());
  const auto cancelled = LogisticRegression::fit(
      {values, both, 1, 2}, 1, [] { return Status(StatusCode::kCancelled, "cancelled"); });
  EXPECT_EQ(cancelled.status().code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace tessera::evaluation
