#include <cmath>
#include <limits>

#include "kernels/attention_product/attention_product.h"
#include "kernels/testing.h"

namespace tessera::attention_product {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();

// What b holds.
enum class Panel { kF32, kBF16, kInt8Rows, kInt8Columns };
constexpr Panel kPanels[] = {Panel::kF32, Panel::kBF16, Panel::kInt8Rows, Panel::kInt8Columns};

struct Case {
  int64_t rows, depth, cols;
  Start start;
  Panel panel = Panel::kF32;
};

// Normal values as the panel holds them, and what they stand for.
struct Numbers {
  Numbers(const Case& size, int64_t stride, uint32_t seed)
      : floats(testing::random_values(size.depth * stride + 1, seed)),
        scales(testing::random_values(std::max(size.depth, size.cols), seed + 1)) {
    for (size_t i = 0; i < floats.size(); ++i) {
      const auto row = static_cast<int64_t>(i) / stride, col = static_cast<int64_t>(i) % stride;
      if (size.panel == Panel::kBF16) {
        bf16.push_back(f32_to_bf16(floats[i]));
        floats[i] = bf16_to_f32(bf16.back());
      } else if (size.panel != Panel::kF32) {
        int8.push_back(static_cast<int8_t>(std::clamp(40 * floats[i], -127.0f, 127.0f)));
        const bool by_rows = size.panel == Panel::kInt8Rows;
        // Padding has no scale.
        const bool has_scale = by_rows ? row < size.depth : col < size.cols;
        floats[i] = has_scale ? int8.back() * scales[by_rows ? row : col] : 0;
      }
    }
  }

  void enter(Panel panel, Args& args) const {
    args.b = floats.data();
    if (panel == Panel::kF32) return;
    args.b_dtype = panel == Panel::kBF16 ? DType::kBF16 : DType::kI8;
    args.b = panel == Panel::kBF16 ? static_cast<const void*>(bf16.data()) : int8.data();
    if (panel == Panel::kInt8Rows) args.b_row_scale = scales.data();
    if (panel == Panel::kInt8Columns) args.b_col_scale = scales.data();
  }

  std::vector<float> floats, scales;
  std::vector<uint16_t> bf16;
  std::vector<int8_t> int8;
};

void check_against_ref(const Case& size, uint32_t seed) {
  SCOPED_TRACE(::testing::Message()
               << "seed " << seed << ", " << size.rows << " x " << size.depth << " x " << size.cols
               << ", panel " << static_cast<int>(size.panel));
  const int64_t a_stride = size.depth + 3, b_stride = size.cols + 1, c_stride = size.cols + 5;
  const std::vector<float> a = testing::random_values(size.rows * a_stride, seed);
  const Numbers b(size, b_stride, seed + 1);
  const std::vector<float> factor = testing::random_values(size.rows, seed + 3);
  const std::vector<float> before = testing::random_values(size.rows * c_stride, seed + 4);
  std::vector<float> expected = before, found;
  Args args{.a = a.data(),
            .a_stride = a_stride,
            .depth = size.depth,
            .b_stride = b_stride,
            .cols = size.cols,
            .start = size.start,
            .factor = factor.data(),
            .c = expected.data(),
            .c_stride = c_stride};
  b.enter(size.panel, args);
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
          mass += std::abs(a[r * a_stride + k] * b.floats[k * b_stride + j]);
        ASSERT_NEAR(expected[at], found[at], static_cast<float>(size.depth + 2) * kEpsilon * mass)
            << "row " << r << ", column " << j;
      }
    }
  });
}

TEST(AttentionProduct, EveryRowAgreesWithRef) {
  uint32_t seed = 1;
  for (Panel panel : kPanels) {
    const bool adds = panel != Panel::kInt8Columns;
    for (int64_t cols : testing::kSizes)
      check_against_ref({7, 64, cols, Start::kZero, panel}, seed += 10);
    for (int64_t depth : testing::kSizes)
      check_against_ref({5, depth, 48, adds ? Start::kScale : Start::kZero, panel}, seed += 10);
    for (int64_t rows = 1; rows <= 14; ++rows) {
      for (int64_t cols : {8, 12, 16, 40, 64, 200}) {
        check_against_ref({rows, 9, cols, Start::kZero, panel}, seed += 10);
        if (!adds) continue;
        check_against_ref({rows, 9, cols, Start::kAdd, panel}, seed += 10);
        check_against_ref({rows, 9, cols, Start::kScale, panel}, seed += 10);
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
