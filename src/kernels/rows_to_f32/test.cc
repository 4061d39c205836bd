#include <cmath>

#include "kernels/rows_to_f32/rows_to_f32.h"
#include "kernels/testing.h"

namespace tessera::rows_to_f32 {
namespace {

enum class Scale { kNone, kRow, kColumn };

// Numbers of every kind: all bytes, and bf16 with infinities and subnormal ones.
std::vector<uint16_t> random_bits(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<uint16_t> bits(static_cast<size_t>(count));
  for (uint16_t& each : bits) {
    do each = static_cast<uint16_t>(generator());
    while (std::isnan(bf16_to_f32(each)));
  }
  return bits;
}

void check_rows(int64_t rows, int64_t cols, Scale scale, uint32_t seed) {
  SCOPED_TRACE(::testing::Message() << testing::seed_trace(seed) << ", " << rows << " x " << cols
                                    << ", scale " << static_cast<int>(scale));
  const int64_t x_stride = cols + 3, y_stride = cols + 5;
  const std::vector<uint16_t> x = random_bits(rows * x_stride + 1, seed);
  const std::vector<float> scales = testing::random_values(std::max(rows, cols), seed + 1);
  std::vector<float> expected(static_cast<size_t>(rows * y_stride), -7.0f), found;
  Args args{.dtype = scale == Scale::kNone ? DType::kBF16 : DType::kI8,
            .x = x.data() + 1,
            .x_stride = x_stride,
            .cols = cols,
            .row_scale = scale == Scale::kRow ? scales.data() : nullptr,
            .col_scale = scale == Scale::kColumn ? scales.data() : nullptr,
            .y = expected.data(),
            .y_stride = y_stride};
  ref(args, {0, rows});
  testing::for_each_fast_row(kernels, args, [&](const KernelRow<Args>& row) {
    found.assign(expected.size(), -7.0f);
    args.y = found.data();
    row.run(args, {0, rows / 2});
    row.run(args, {rows / 2, rows});
    EXPECT_EQ(expected, found);
  });
}

TEST(Widen, EveryRowGivesTheSame) {
  uint32_t seed = 1;
  for (Scale scale : {Scale::kNone, Scale::kRow, Scale::kColumn}) {
    for (int64_t cols : testing::kSizes) check_rows(5, cols, scale, seed += 2);
    for (int64_t rows : testing::kSizes) check_rows(rows, 64, scale, seed += 2);
    check_rows(3, 0, scale, seed += 2);
  }
}

TEST(Widen, NumbersAreWhatTheyStandFor) {
  const uint16_t halves[] = {0x3f80, 0xc040, 0x7f80, 0x0001};
  const int8_t bytes[] = {127, -127, 1, 0};
  const float scale = 0.5f, scales[] = {1, 2, 3, 4};
  for (const KernelRow<Args>& row : kernels.rows()) {
    if (!hardware_has(row.isa)) continue;
    std::vector<float> y(4);
    Args args{.x = halves, .x_stride = 4, .cols = 4, .y = y.data(), .y_stride = 4};
    row.run(args, {0, 1});
    EXPECT_EQ(y, std::vector<float>({1, -3, INFINITY, 0x1p-133f})) << row.name;
    args.dtype = DType::kI8;
    args.x = bytes;
    args.row_scale = &scale;
    row.run(args, {0, 1});
    EXPECT_EQ(y, std::vector<float>({63.5f, -63.5f, 0.5f, 0})) << row.name;
    args.row_scale = nullptr;
    args.col_scale = scales;
    row.run(args, {0, 1});
    EXPECT_EQ(y, std::vector<float>({127, -254, 3, 0})) << row.name;
  }
}

}  // namespace
}  // namespace tessera::rows_to_f32
