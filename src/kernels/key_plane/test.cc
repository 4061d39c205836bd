#include <cmath>
#include <limits>
#include <random>

#include "kernels/key_plane/key_plane.h"
#include "kernels/testing.h"

namespace tessera::key_plane {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();

struct Case {
  int64_t rows, depth;
  Integers integers;
  Start start;
};

// A panel of random bytes and what its integers are, [depth][kCols].
struct Panel {
  Panel(const Case& size, uint32_t seed) {
    std::mt19937 random(seed);
    const int64_t half = (size.depth + 1) / 2;
    const bool packed = size.integers != Integers::kInt8;
    for (int64_t i = 0; i < (packed ? half : size.depth) * kCols; ++i)
      bytes.push_back(static_cast<uint8_t>(random()));
    for (int64_t k = 0; k < size.depth; ++k) {
      for (int64_t j = 0; j < kCols; ++j) {
        const int byte =
            bytes[static_cast<size_t>((packed && k >= half ? k - half : k) * kCols + j)];
        const int nibble = k < half ? byte % 16 : byte / 16;
        integers.push_back(!packed                             ? (byte < 128 ? byte : byte - 256)
                           : size.integers == Integers::kUint4 ? nibble
                           : nibble < 8                        ? nibble
                                                               : nibble - 16);
      }
    }
  }
  std::vector<uint8_t> bytes;
  std::vector<int> integers;
};

void check(const Case& size, uint32_t seed) {
  SCOPED_TRACE(::testing::Message()
               << testing::seed_trace(seed) << ", " << size.rows << " x " << size.depth
               << ", integers " << static_cast<int>(size.integers));
  const int64_t a_stride = size.depth + 3, c_stride = kCols + 5;
  const std::vector<float> a = testing::random_values(size.rows * a_stride, seed),
                           scale = testing::random_values(kCols, seed + 1, 0.1f),
                           offset = testing::random_values(size.rows, seed + 2, 50.0f),
                           before = testing::random_values(size.rows * c_stride, seed + 3);
  const Panel panel(size, seed + 4);
  std::vector<float> found;
  Args args{.a = a.data(),
            .a_stride = a_stride,
            .depth = size.depth,
            .integers = size.integers,
            .b = panel.bytes.data(),
            .scale = scale.data(),
            .factor = 16,
            .offset = offset.data(),
            .start = size.start,
            .c_stride = c_stride};
  const auto run = [&](auto* kernel) {
    found = before;
    args.c = found.data();
    kernel(args, Exec{0, size.rows / 2});
    kernel(args, Exec{size.rows / 2, size.rows});
    for (int64_t r = 0; r < size.rows; ++r) {
      for (int64_t j = 0; j < c_stride; ++j) {
        const auto at = static_cast<size_t>(r * c_stride + j);
        if (j >= kCols) {
          ASSERT_EQ(before[at], found[at]) << "written past the columns, row " << r;
          continue;
        }
        const double start = size.start == Start::kAdd ? before[at] : 0;
        double sum = offset[static_cast<size_t>(r)], mass = std::abs(sum);
        for (int64_t k = 0; k < size.depth; ++k) {
          const double term = 16.0 * a[static_cast<size_t>(r * a_stride + k)] *
                              panel.integers[static_cast<size_t>(k * kCols + j)];
          sum += term, mass += std::abs(term);
        }
        const double by = scale[static_cast<size_t>(j)];
        ASSERT_NEAR(start + by * sum, found[at],
                    static_cast<double>(size.depth + 4) * kEpsilon *
                        (std::abs(start) + std::abs(by) * mass))
            << "row " << r << ", column " << j;
      }
    }
  };
  run(ref);
  testing::for_each_fast_row(kernels, args, [&](const KernelRow<Args>& row) { run(row.run); });
}

TEST(KeyPlane, EveryRowIsTheSum) {
  uint32_t seed = 1;
  for (const Integers integers : {Integers::kInt8, Integers::kInt4, Integers::kUint4}) {
    for (const Start start : {Start::kZero, Start::kAdd}) {
      for (const int64_t depth : testing::kSizes) check({2, depth, integers, start}, seed += 10);
      for (int64_t rows = 1; rows <= 9; ++rows) check({rows, 40, integers, start}, seed += 10);
    }
  }
}

TEST(KeyPlane, RowsDoNotDependOnTheirNeighbours) {
  const std::vector<float> a = testing::random_values(7 * 33, 5),
                           scale = testing::random_values(kCols, 6),
                           offset = testing::random_values(7, 7);
  for (const Integers integers : {Integers::kInt8, Integers::kInt4}) {
    const Panel panel({7, 33, integers, Start::kZero}, 8);
    std::vector<float> together(7 * kCols), alone(7 * kCols);
    Args args{.a = a.data(),
              .a_stride = 33,
              .depth = 33,
              .integers = integers,
              .b = panel.bytes.data(),
              .scale = scale.data(),
              .offset = offset.data(),
              .c_stride = kCols};
    for (const KernelRow<Args>& row : kernels.rows()) {
      if (!hardware_has(row.isa)) continue;
      args.c = together.data();
      row.run(args, {0, 7});
      args.c = alone.data();
      for (int64_t r = 0; r < 7; ++r) row.run(args, {r, r + 1});
      EXPECT_EQ(together, alone) << row.name;
    }
  }
}

}  // namespace
}  // namespace tessera::key_plane
