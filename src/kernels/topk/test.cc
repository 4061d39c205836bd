#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "kernels/testing.h"
#include "kernels/topk/topk.h"

namespace tessera::topk {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int32_t kUntouched = -7;

// The definition: a stable sort in falling order, NaN last.
std::vector<int32_t> sorted(const std::vector<float>& x, int64_t k) {
  std::vector<int32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const float left = x[static_cast<size_t>(a)], right = x[static_cast<size_t>(b)];
    return std::isnan(right) ? !std::isnan(left) : left > right;
  });
  order.resize(static_cast<size_t>(k));
  std::sort(order.begin(), order.end());
  return order;
}

// The last of two rows, the first of which is not asked for; nothing beyond k indices is written.
std::vector<int32_t> run(const KernelRow<Args>& row, const std::vector<float>& x, int64_t k) {
  const auto n = static_cast<int64_t>(x.size());
  std::vector<float> rows(x.size() + 3, kNan);
  rows.insert(rows.end(), x.begin(),
              x.end());  // ends with x, so that a sanitizer sees a read beyond
  std::vector<int32_t> scratch(static_cast<size_t>(scratch_size(n)));
  std::vector<int32_t> indices(static_cast<size_t>(2 * k + 6), kUntouched);
  row.run({.x = rows.data(),
           .x_stride = n + 3,
           .n = n,
           .k = k,
           .indices = indices.data(),
           .indices_stride = k + 3,
           .scratch = scratch.data()},
          {1, 2});
  const auto begin = indices.begin() + k + 3;
  EXPECT_EQ(k + 6, std::count(indices.begin(), begin, kUntouched) +
                       std::count(begin + k, indices.end(), kUntouched));
  return {begin, begin + k};
}

void check(const std::vector<float>& x) {
  const auto n = static_cast<int64_t>(x.size());
  for (const int64_t k : std::set<int64_t>{0, 1, n / 8, n / 3, n - n / 50, n - 1, n}) {
    const std::vector<int32_t> expected = sorted(x, k);
    for (const KernelRow<Args>& row : kernels.rows()) {
      if (!hardware_has(row.isa)) {
        testing::report_absent(kernels, row);
        continue;
      }
      SCOPED_TRACE(row.name + std::string(": ") + std::to_string(k) + " of " + std::to_string(n));
      EXPECT_EQ(expected, run(row, x, k));
    }
  }
}

std::vector<int64_t> sizes() {
  std::vector<int64_t> sizes = testing::kSizes;
  // Around the size above which a sample is taken, and lengths of real rows.
  for (const int64_t n : {511, 512, 513, 640, 1024, 1371, 4096}) sizes.push_back(n);
  return sizes;
}

void check_sizes(const std::function<float(int64_t place, int64_t n)>& value) {
  for (const int64_t n : sizes()) {
    std::vector<float> x(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) x[static_cast<size_t>(i)] = value(i, n);
    check(x);
  }
}

TEST(TopK, RandomValues) {
  uint32_t seed = 1;
  for (const int64_t n : sizes()) {
    SCOPED_TRACE(testing::seed_trace(++seed));
    check(testing::random_values(n, seed));
  }
}

TEST(TopK, ProbabilitiesOfPeakedRows) {
  uint32_t seed = 100;
  for (const int64_t n : sizes()) {
    SCOPED_TRACE(testing::seed_trace(++seed));
    std::vector<float> x = testing::random_values(n, seed, 30);
    for (float& value : x) value = std::exp(value - 100);  // mostly tiny or denormal
    check(x);
  }
}

TEST(TopK, TiesAreTakenInTheirOrder) {
  check_sizes([](int64_t, int64_t) { return 2.5f; });
  check_sizes([](int64_t i, int64_t) { return static_cast<float>(i * 7 % 5); });
  check_sizes([](int64_t i, int64_t n) { return i < n / 2 ? 1.0f : 2.0f; });
}

TEST(TopK, BothZerosAreEqual) {
  check_sizes([](int64_t i, int64_t) { return i % 2 == 0 ? -0.0f : 0.0f; });
}

TEST(TopK, NanRanksBelowEveryNumber) {
  check_sizes([](int64_t, int64_t) { return kNan; });
  check_sizes(
      [](int64_t i, int64_t) { return i % 3 == 0 ? (i % 2 == 0 ? kNan : -kNan) : -kInfinity; });
  check_sizes([](int64_t i, int64_t) {
    return i % 4 == 0 ? kNan : i % 4 == 1 ? kInfinity : -1e38f;
  });
}

TEST(TopK, SortedRows) {
  check_sizes([](int64_t i, int64_t) { return static_cast<float>(i); });
  check_sizes([](int64_t i, int64_t) { return -static_cast<float>(i); });
}

// What the sample sees lies all above, or all below, what is asked for.
TEST(TopK, ASampleThatMisleads) {
  for (const float sampled : {1e9f, -1e9f}) {
    check_sizes([&](int64_t i, int64_t n) {
      for (int64_t s = 0; s < 128; ++s) {
        if (s * n / 128 == i) return sampled + static_cast<float>(s);
      }
      return static_cast<float>(i % 97);
    });
  }
}

}  // namespace
}  // namespace tessera::topk
