#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention_softmax/attention_softmax.h"
#include "kernels/testing.h"

namespace tessera::attention_softmax {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kRowsTested = 4;

struct State {
  std::vector<float> scores, maximum, sum, rescale;
  void point(Args& args) {
    args.scores = scores.data();
    args.maximum = maximum.data();
    args.sum = sum.data();
    args.rescale = rescale.data();
  }
};

struct Case {
  int32_t keys = 0;
  float spread = 1;
  float shift = 0;
  float before = -kInfinity;  // the running maximum
  bool bias = false;
};

int64_t padded(int64_t keys) { return (keys + kBlock - 1) / kBlock * kBlock; }

void expect_near_ref(const Args& args, const State& raw, const State& expected,
                     const State& found) {
  for (int64_t r = 0; r < kRowsTested; ++r) {
    const int32_t begin = std::max(args.begin[r] - args.first_key, 0);
    const int32_t end = std::min(args.end[r] - args.first_key, args.keys);
    if (expected.maximum[r] == -kInfinity || args.bias == nullptr) {
      ASSERT_EQ(expected.maximum[r], found.maximum[r]) << "row " << r;
    } else {  // log2(e) bias is at most 8 and is rounded before it is added, or is not
      ASSERT_NEAR(expected.maximum[r], found.maximum[r],
                  kEpsilon * (std::abs(expected.maximum[r]) + 8));
    }
    ASSERT_NEAR(expected.rescale[r], found.rescale[r],
                200 * kEpsilon * expected.rescale[r] + 1.2e-38f);
    double slack = 0;
    for (int64_t j = 0; j < args.scores_stride; ++j) {
      const int64_t at = r * args.scores_stride + j;
      const float p = expected.scores[at];
      if (begin >= end || j / kBlock < begin / kBlock || j / kBlock > (end - 1) / kBlock) {
        ASSERT_EQ(raw.scores[at], p) << "row " << r << ", column " << j;
        ASSERT_EQ(raw.scores[at], found.scores[at]) << "row " << r << ", column " << j;
        continue;
      }
      // One rounding of s - M' moves p by |s - M'| eps; with a bias its own two roundings move it
      // by (|s| + |M'|) eps.
      const float distance = p > 0 ? -std::log2(p) : 0;
      const float bias_reach =
          args.bias != nullptr ? distance + 2 * std::abs(expected.maximum[r]) + 16 : 0;
      const float bound = (distance + bias_reach + 8) * kEpsilon * p + 1.2e-38f;
      ASSERT_NEAR(p, found.scores[at], bound)
          << "row " << r << ", column " << j << " of " << begin << ".." << end;
      if (j >= begin && j < end) slack += bound;
    }
    ASSERT_NEAR(expected.sum[r], found.sum[r],
                slack + (args.keys / 8.0 + 200) * kEpsilon * expected.sum[r])
        << "row " << r;
  }
}

void check_against_ref(const Case& c, uint32_t seed) {
  SCOPED_TRACE(::testing::Message() << "seed " << seed << ", keys " << c.keys);
  const int64_t stride = padded(c.keys) + 64;
  const int32_t first_key = 100;
  State raw{testing::random_values(kRowsTested * stride, seed, c.spread),
            std::vector<float>(kRowsTested, c.before),
            std::vector<float>(kRowsTested, c.before == -kInfinity ? 0.0f : 3.5f),
            std::vector<float>(kRowsTested)};
  for (float& s : raw.scores) s += c.shift;
  const std::vector<float> bias_values =
      testing::random_values(first_key + c.keys + kRowsTested, seed + 1);
  std::vector<const float*> bias;
  for (int64_t r = 0; r < kRowsTested; ++r) bias.push_back(bias_values.data() + r);
  // Everything, a part, nothing, and a range that begins before and ends behind the step.
  const std::vector<int32_t> begin = {first_key, first_key + c.keys / 3, first_key + c.keys, 0};
  const std::vector<int32_t> end = {first_key + c.keys, first_key + c.keys - c.keys / 4,
                                    first_key + c.keys + 9, 9999};
  Args args{.scores_stride = stride,
            .begin = begin.data(),
            .end = end.data(),
            .first_key = first_key,
            .keys = c.keys,
            .bias = c.bias ? bias.data() : nullptr};
  State expected = raw;
  expected.point(args);
  ref(args, {0, kRowsTested});
  testing::for_each_fast_row(kernels, args, [&](const KernelRow<Args>& row) {
    State found = raw;
    found.point(args);
    row.run(args, {0, 1});
    row.run(args, {1, kRowsTested});
    expect_near_ref(args, raw, expected, found);
  });
}

TEST(AttentionSoftmax, EveryRowAgreesWithRef) {
  uint32_t seed = 1;
  for (int64_t keys : testing::kSizes) {
    const int32_t n = static_cast<int32_t>(keys);
    for (bool bias : {false, true}) {
      check_against_ref({.keys = n, .bias = bias}, seed += 10);
      check_against_ref({.keys = n, .spread = 40, .bias = bias}, seed += 10);
      check_against_ref({.keys = n, .before = 2, .bias = bias}, seed += 10);
      check_against_ref({.keys = n, .shift = -30, .before = -80, .bias = bias}, seed += 10);
    }
    check_against_ref({.keys = n, .spread = 1e4f}, seed += 10);
    check_against_ref({.keys = n, .before = 300}, seed += 10);
  }
}

// One step over all keys and several steps over parts give the same sums.
TEST(AttentionSoftmax, StepsAgreeWithOne) {
  const int32_t keys = 256, begin = 3, end = 251;
  const std::vector<float> scores = testing::random_values(keys, 11, 5.0f);
  for (const KernelRow<Args>& row : kernels.rows()) {
    if (!hardware_has(row.isa)) continue;
    float maximum[2] = {-kInfinity, -kInfinity}, sum[2] = {0, 0}, rescale = 0;
    std::vector<float> whole = scores, parts = scores;
    row.run({.scores = whole.data(),
             .scores_stride = keys,
             .begin = &begin,
             .end = &end,
             .first_key = 0,
             .keys = keys,
             .maximum = &maximum[0],
             .sum = &sum[0],
             .rescale = &rescale},
            {0, 1});
    for (int32_t at = 0; at < keys; at += 64) {
      row.run({.scores = parts.data() + at,
               .scores_stride = keys,
               .begin = &begin,
               .end = &end,
               .first_key = at,
               .keys = 64,
               .maximum = &maximum[1],
               .sum = &sum[1],
               .rescale = &rescale},
              {0, 1});
    }
    EXPECT_EQ(maximum[0], maximum[1]) << row.name;
    EXPECT_NEAR(sum[0], sum[1], 64 * kEpsilon * sum[0]) << row.name;
  }
}

TEST(AttentionSoftmax, ScoresOfMinusInfinityAndNaN) {
  for (const KernelRow<Args>& row : kernels.rows()) {
    if (!hardware_has(row.isa)) continue;
    SCOPED_TRACE(row.name);
    const int32_t begin = 0, end = 20;
    std::vector<float> s(64, -kInfinity);
    float maximum = -kInfinity, sum = 0, rescale = -1;
    const Args args{.scores = s.data(),
                    .scores_stride = 64,
                    .begin = &begin,
                    .end = &end,
                    .first_key = 0,
                    .keys = 64,
                    .maximum = &maximum,
                    .sum = &sum,
                    .rescale = &rescale};
    row.run(args, {0, 1});
    EXPECT_EQ(maximum, -kInfinity);
    EXPECT_EQ(sum, 0);
    for (float p : s) EXPECT_EQ(p, 0);
    std::fill(s.begin(), s.end(), -kInfinity);
    s[17] = -5;
    row.run(args, {0, 1});
    EXPECT_EQ(maximum, -5);
    EXPECT_EQ(sum, 1);
    EXPECT_EQ(rescale, 0);
    EXPECT_EQ(s[17], 1);
    EXPECT_EQ(s[18], 0);
    s[3] = std::numeric_limits<float>::quiet_NaN();
    row.run(args, {0, 1});
    EXPECT_TRUE(std::isnan(sum));
  }
}

}  // namespace
}  // namespace tessera::attention_softmax
