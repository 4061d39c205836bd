#include <cmath>
#include <limits>

#include "kernels/rotary/rotary.h"
#include "kernels/testing.h"

namespace tessera::rotary {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();

// Tables for positions 0..7 with frequencies 10000^(-2j/rotated).
struct Tables {
  explicit Tables(int32_t rotated) {
    for (int position = 0; position < 8; ++position) {
      for (int j = 0; j < rotated / 2; ++j) {
        const double angle = position * std::pow(10000.0, -2.0 * j / rotated);
        cosines.push_back(static_cast<float>(std::cos(angle)));
        sines.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }
  std::vector<float> cosines, sines;
};

void check_against_ref(int32_t heads, int32_t head_size, int32_t rotated, uint32_t seed) {
  SCOPED_TRACE("heads " + std::to_string(heads) + " of " + std::to_string(head_size) +
               ", rotated " + std::to_string(rotated) + ", " + testing::seed_trace(seed));
  const int64_t rows = 4, stride = heads * head_size + 3;
  const Tables tables(rotated);
  const std::vector<int32_t> positions = {0, 7, 3, 3};
  const std::vector<float> x = testing::random_values(rows * stride, seed);
  std::vector<float> expected = x;
  Args args{.x = expected.data(),
            .x_stride = stride,
            .heads = heads,
            .head_size = head_size,
            .rotated = rotated,
            .positions = positions.data(),
            .cosines = tables.cosines.data(),
            .sines = tables.sines.data()};
  ref(args, {0, rows});
  testing::for_each_fast_row(kernels, args, [&](const KernelRow<Args>& row) {
    std::vector<float> found = x;
    args.x = found.data();
    row.run(args, {0, 1});
    row.run(args, {1, rows});
    for (int64_t i = 0; i < rows * stride; ++i) {
      const int64_t column = i % stride, within = column % head_size;
      if (column >= heads * head_size || within >= rotated) {
        ASSERT_EQ(x[i], found[i]) << "wrote outside at " << i;
        continue;
      }
      const int64_t pair = within < rotated / 2 ? i + rotated / 2 : i - rotated / 2;
      ASSERT_NEAR(expected[i], found[i], 2 * kEpsilon * (std::abs(x[i]) + std::abs(x[pair]))) << i;
    }
  });
}

TEST(Rotary, EveryRowAgreesWithRef) {
  uint32_t seed = 1;
  for (int32_t head_size : {2, 4, 8, 14, 16, 30, 32, 34, 64, 80, 96, 128, 200, 256}) {
    check_against_ref(3, head_size, head_size, seed++);
    check_against_ref(1, head_size, head_size / 4 * 2, seed++);
  }
}

TEST(Rotary, ReferenceTurnsPairs) {
  // A quarter turn of (1, 2) is (-2, 1); the third and fourth elements are outside `rotated`.
  std::vector<float> x = {1, 2, 3, 4};
  const float cosine = 0, sine = 1;
  const int32_t position = 0;
  ref({.x = x.data(),
       .heads = 1,
       .head_size = 4,
       .rotated = 2,
       .positions = &position,
       .cosines = &cosine,
       .sines = &sine},
      {0, 1});
  EXPECT_EQ(x, (std::vector<float>{-2, 1, 3, 4}));
}

}  // namespace
}  // namespace tessera::rotary
