#include "kernels/testing.h"
#include "kernels/transpose/transpose.h"

namespace tessera::transpose {
namespace {

TEST(Transpose, EveryRowGivesTheSame) {
  for (int64_t rows : testing::kSizes) {
    for (int64_t cols : {1, 3, 4, 7, 8, 12, 15, 16, 17, 65}) {
      const int64_t x_stride = cols + 3, y_stride = rows + 1;
      const std::vector<float> x = testing::random_values(rows * x_stride, 7);
      for (const KernelRow<Args>& row : kernels.rows()) {
        if (!hardware_has(row.isa)) continue;
        std::vector<float> y(static_cast<size_t>(cols * y_stride), -1.0f);
        const Args args{
            .x = x.data(), .x_stride = x_stride, .cols = cols, .y = y.data(), .y_stride = y_stride};
        row.run(args, {0, rows / 3});
        row.run(args, {rows / 3, rows});
        for (int64_t c = 0; c < cols; ++c) {
          ASSERT_EQ(y[c * y_stride + rows], -1.0f) << row.name;
          for (int64_t r = 0; r < rows; ++r)
            ASSERT_EQ(y[c * y_stride + r], x[r * x_stride + c]) << row.name;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tessera::transpose
