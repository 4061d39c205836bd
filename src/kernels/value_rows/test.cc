#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "base/dtype.h"
#include "kernels/testing.h"
#include "kernels/value_rows/value_rows.h"

namespace tessera::value_rows {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
constexpr int32_t kPages = 3;
constexpr int64_t kRowsAt = 128;

struct Case {
  Numbers numbers;
  int64_t cols;
  int32_t queries = 1;
  int32_t count = 20;
};

// Pages of random rows, and what they stand for.
struct Pages {
  Pages(const Case& c, uint32_t seed) : values(kPages * kPageRows * c.cols) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const int64_t half = (c.cols + 1) / 2;
    const int64_t row_bytes = c.numbers == Numbers::kF32    ? 4 * c.cols
                              : c.numbers == Numbers::kBF16 ? 2 * c.cols
                              : c.numbers == Numbers::kInt8 ? c.cols
                                                            : half;
    scales_at = (kRowsAt + kPageRows * row_bytes + 3) / 4 * 4;
    storage.assign(kPages, std::vector<std::byte>(static_cast<size_t>(scales_at) + 4 * kPageRows));
    for (int32_t place = 0; place < kPages * kPageRows; ++place) {
      std::vector<std::byte>& page = storage[static_cast<size_t>(place / kPageRows)];
      const int32_t row = place % kPageRows;
      const float scale = 0.5f + std::abs(normal(random));
      std::memcpy(page.data() + scales_at + 4 * row, &scale, 4);
      std::byte* at = page.data() + kRowsAt + row * row_bytes;
      for (int64_t i = 0; i < c.cols; ++i) {
        double& value = values[static_cast<size_t>(place * c.cols + i)];
        const float x = normal(random);
        const auto byte = static_cast<int8_t>(random());
        const int nibble = static_cast<int>(random() % 16) - 8;
        switch (c.numbers) {
          case Numbers::kF32:
            std::memcpy(at + 4 * i, &x, 4);
            value = x;
            break;
          case Numbers::kBF16: {
            const uint16_t bits = f32_to_bf16(x);
            std::memcpy(at + 2 * i, &bits, 2);
            value = bf16_to_f32(bits);
            break;
          }
          case Numbers::kInt8:
            at[i] = static_cast<std::byte>(byte);
            value = double{scale} * byte;
            break;
          case Numbers::kInt4:
            at[i % half] |= static_cast<std::byte>((nibble & 15) << (i < half ? 0 : 4));
            value = double{scale} * nibble;
        }
      }
    }
    for (const auto& page : storage) pages.push_back(page.data());
  }

  std::vector<std::vector<std::byte>> storage;
  std::vector<const std::byte*> pages;
  int64_t scales_at = 0;
  std::vector<double> values;
};

void check(const Case& c, uint32_t seed) {
  SCOPED_TRACE(::testing::Message() << testing::seed_trace(seed) << ", " << c.cols << " columns of "
                                    << static_cast<int>(c.numbers) << ", count " << c.count);
  const Pages pages(c, seed);
  constexpr int32_t kRows = kPages * kPageRows;
  std::mt19937 random(seed + 1);
  std::vector<float> weights = testing::random_values(c.queries * kRows, seed + 2);
  for (float& weight : weights) {
    if (random() % 8 == 0) weight = 0;
  }
  std::vector<int32_t> places, counts;
  for (int32_t q = 0; q < c.queries; ++q) {
    std::vector<int32_t> all(kRows);
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random);
    std::sort(all.begin(), all.begin() + c.count);
    places.insert(places.end(), all.begin(), all.begin() + c.count);
    counts.push_back(c.count - q % 2);
  }
  const int64_t y_stride = c.cols + 3;
  std::vector<float> y;
  Args args{.weights = weights.data(),
            .weights_stride = kRows,
            .places = places.data(),
            .places_stride = c.count,
            .counts = counts.data(),
            .pages = pages.pages.data(),
            .rows_at = kRowsAt,
            .scales_at = pages.scales_at,
            .numbers = c.numbers,
            .cols = c.cols,
            .y_stride = y_stride};
  const auto run = [&](auto* kernel) {
    y.assign(static_cast<size_t>(c.queries * y_stride), -7);
    args.y = y.data();
    kernel(args, Exec{0, c.queries});
    for (int32_t q = 0; q < c.queries; ++q) {
      for (int64_t col = 0; col < y_stride; ++col) {
        const float found = y[static_cast<size_t>(q * y_stride + col)];
        if (col >= c.cols) {
          ASSERT_EQ(found, -7) << "written past the columns";
          continue;
        }
        double sum = 0, mass = 0;
        for (int32_t i = 0; i < counts[static_cast<size_t>(q)]; ++i) {
          const int32_t place = places[static_cast<size_t>(q * c.count + i)];
          const double term = weights[static_cast<size_t>(q * kRows + place)] *
                              pages.values[static_cast<size_t>(place * c.cols + col)];
          sum += term, mass += std::abs(term);
        }
        ASSERT_NEAR(sum, found, (c.count + 2) * kEpsilon * mass) << "column " << col;
      }
    }
  };
  run(ref);
  testing::for_each_fast_row(kernels, args, [&](const KernelRow<Args>& row) { run(row.run); });
}

TEST(ValueRows, EveryRowIsTheSum) {
  uint32_t seed = 1;
  for (const Numbers numbers : {Numbers::kF32, Numbers::kBF16, Numbers::kInt8, Numbers::kInt4}) {
    for (const int64_t cols : testing::kSizes) check({numbers, cols}, seed += 10);
    for (const int32_t count : {1, 2, 13, 64, 192}) check({numbers, 64, 3, count}, seed += 10);
  }
}

TEST(ValueRows, AWeightOfZeroLeavesItsRowOut) {
  std::vector<float> page(kPageRows, std::numeric_limits<float>::quiet_NaN());
  page[2] = 3;
  const auto* pages = reinterpret_cast<const std::byte*>(page.data());
  const float weights[] = {0, 0, 2, 0};
  const int32_t places[] = {0, 1, 2, 3}, count = 4;
  for (const KernelRow<Args>& row : kernels.rows()) {
    if (!hardware_has(row.isa)) continue;
    float y = 0;
    row.run({.weights = weights,
             .places = places,
             .counts = &count,
             .pages = &pages,
             .numbers = Numbers::kF32,
             .cols = 1,
             .y = &y},
            {0, 1});
    EXPECT_EQ(y, 6) << row.name;
  }
}

}  // namespace
}  // namespace tessera::value_rows
