#include <cmath>
#include <limits>

#include "kernels/attention_product/attention_product.h"
#include "kernels/testing.h"

namespace tessera::attention_product {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();

struct Case {
  int64_t rows, depth, cols;
  Start start;
};

void check_against_ref(const Case& size, uint32_t seed) {
  SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << size.rows << " x " << size.depth
                                    << " x " << size.cols);
  const int64_t a_stride = size.depth + 3, b_stride = size.cols + 1, c_stride = size.cols + 5;
  const std::vector<float> a = testing::random_values(size.rows * a_stride, seed);
  const std::vector<float> b = testing::random_values(size.depth * b_stride + 1, seed + 1);
  const std::vector<float> factor = testing::random_values(size.rows, seed + 2);
  const std::vector<float> before = testing::random_values(size.rows * c_stride, seed + 3);
  std::vector<float> expected = before, found;
  Args args{.a = a.data(),
            .a_stride = a_stride,
            .depth = size.depth,
            .b = b.data(),
            .b_stride = b_stride,
            .cols = size.cols,
            .start = size.start,
            .factor = factor.data(),
            .c = expected.data(),
            .c_stride = c_stride};
  ref(args, {0, size.rows});
  testing::for_each_fast_row(kernels, args, [&](const KernelRow<Args>& row) {
    found = before;
    args.c = found.data();
    row.run(args, {0, size.rows / 2});
    row.run(args, {size.rows / 2, size.rows});
    for (int64_t r = 0; r < size.rows; ++r) {
      for (int64_t j = 0; j < c_stride; ++j) {
        const int64_t at = r * c_stride + j;
        if (j >= size.cols) {
          ASSERT_EQ(before[at], found[at]) << "written past the columns, row " << r;
          continue;
        }
        float mass = std::abs(before[at]) * std::max(1.0f, std::abs(factor[r]));
        for (int64_t k = 0; k < size.depth; ++k)
          mass += std::abs(a[r * a_stride + k] * b[k * b_stride + j]);
        ASSERT_NEAR(expected[at], found[at], static_cast<float>(size.depth + 2) * kEpsilon * mass)
            << "row " << r << ", column " << j;
      }
    }
  });
}

TEST(AttentionProduct, EveryRowAgreesWithRef) {
  uint32_t seed = 1;
  for (int64_t cols : testing::kSizes) check_against_ref({7, 64, cols, Start::kZero}, seed += 10);
  for (int64_t depth : testing::kSizes)
    check_against_ref({5, depth, 48, Start::kScale}, seed += 10);
  for (int64_t rows = 1; rows <= 14; ++rows) {
    for (int64_t cols : {8, 12, 16, 40, 64, 200}) {
      for (Start start : {Start::kZero, Start::kAdd, Start::kScale}) {
        check_against_ref({rows, 9, cols, start}, seed += 10);
      }
    }
  }
}

TEST(AttentionProduct, NothingToAddKeepsTheStart) {
  const Args base{.a_stride = 1, .depth = 0, .b_stride = 3, .cols = 3, .c_stride = 3};
  const float factor = 2;
  for (const KernelRow<Args>& row : kernels.rows()) {
    if (!hardware_has(row.isa)) continue;
    std::vector<float> c = {1, 2, 3};
    Args args = base;
    args.c = c.data();
    args.factor = &factor;
    args.start = Start::kScale;
    row.run(args, {0, 1});
    EXPECT_EQ(c, std::vector<float>({2, 4, 6})) << row.name;
    args.start = Start::kZero;
    row.run(args, {0, 1});
    EXPECT_EQ(c, std::vector<float>({0, 0, 0})) << row.name;
  }
}

// A row is the same number whichever rows share its tile.
TEST(AttentionProduct, RowsDoNotDependOnTheirNeighbours) {
  const std::vector<float> a = testing::random_values(13 * 33, 5),
                           b = testing::random_values(33 * 70, 6);
  std::vector<float> together(13 * 70), alone(13 * 70);
  Args args{.a = a.data(),
            .a_stride = 33,
            .depth = 33,
            .b = b.data(),
            .b_stride = 70,
            .cols = 70,
            .c_stride = 70};
  for (const KernelRow<Args>& row : kernels.rows()) {
    if (!hardware_has(row.isa)) continue;
    args.c = together.data();
    row.run(args, {0, 13});
    args.c = alone.data();
    for (int64_t r = 0; r < 13; ++r) row.run(args, {r, r + 1});
    EXPECT_EQ(together, alone) << row.name;
  }
}

}  // namespace
}  // namespace tessera::attention_product
