#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "attention/testing.h"

namespace tessera::testing {
namespace {

// What the pages hold of a matrix of rows: half a step off at most, and zeros behind the last
// token. The step of kI8 is a token's scale, max / most; the product before and the scale after
// rounding are off by eps each, of at most `most` steps.
void expect_rounded(const std::vector<float>& x, const std::vector<float>& found, DType dtype,
                    int32_t bits) {
  float largest = 0;
  for (float each : x) largest = std::max(largest, std::abs(each));
  const double most = (1 << (bits - 1)) - 1;
  for (size_t i = 0; i < x.size(); ++i) {
    switch (dtype) {
      case DType::kBF16:
        ASSERT_EQ(bf16_to_f32(f32_to_bf16(x[i])), found[i]);
        break;
      case DType::kI8:
        ASSERT_NEAR(x[i], found[i], largest / most * (0.5 + most * 4 * kEpsilon));
        break;
      default:
        ASSERT_EQ(x[i], found[i]);
    }
  }
}

TEST(AppendToPages, PutsTokensInTheirPlacesAndZerosBehindTheLast) {
  std::vector<PageType> types(std::begin(kIntegerTypes), std::end(kIntegerTypes));
  for (const DType dtype : kPageTypes) types.push_back({dtype});
  for (const PageType& type : types) {
    for (int threads : {1, 3, 4}) {
      SCOPED_TRACE(::testing::Message() << to_string(type) << ", threads " << threads);
      // With four, of two values a key.
      AttentionShape shape = threads == 4 ? summed_shape(6, 3, 12, 20) : shape_of(3, 3, 19, 20);
      shape = in_pages(type, shape);
      Batch batch({.shape = shape, .lengths = {{1, 150}, {1, 1}, {1, 64}, {1, 0}}, .seed = 1200});
      batch.append(threads);
      const PageShape& pages = batch.shape().pages;
      const auto token = [&](const std::vector<float>& rows, int64_t at, int32_t width) {
        return std::vector<float>(rows.begin() + at, rows.begin() + at + width);
      };
      for (size_t s = 0; s < batch.tables().size(); ++s) {
        const PageTable& table = batch.tables()[s];
        for (int32_t j = 0; j < static_cast<int32_t>(table.pages.size()) * kPageTokens; ++j) {
          const bool there = j < table.tokens();
          for (int32_t h = 0; h < 3; ++h) {
            const int64_t at = (batch.first_key(s) + j) * batch.key_stride() + h * pages.d_k;
            std::vector<float> x(static_cast<size_t>(pages.d_k)), found;
            if (there) x = token(batch.key, at, pages.d_k);
            for (int32_t d = 0; d < pages.d_k; ++d) found.push_back(batch.cached_key(s, j, h, d));
            expect_rounded(x, found, type.dtype, type.bits.key());
          }
          for (int32_t h = 0; h < 3 * pages.values_per_key(); ++h) {
            const int64_t at = (batch.first_key(s) + j) * batch.value_stride() + h * pages.d_v;
            std::vector<float> x(static_cast<size_t>(pages.d_v)), found;
            if (there) x = token(batch.value, at, pages.d_v);
            for (int32_t d = 0; d < pages.d_v; ++d) found.push_back(batch.cached_value(s, j, h, d));
            expect_rounded(x, found, type.dtype, type.bits.value);
          }
        }
      }
    }
  }
}

// The middle of what the lower plane may hold is off by at most half a step of the upper one.
TEST(AppendToPages, TheUpperPlaneAloneIsHalfItsStepOff) {
  for (const PageType& type : kIntegerTypes) {
    if (type.bits.lower == 0) continue;
    const AttentionShape shape = in_pages(type, shape_of(2, 2, 33, 8));
    Batch batch({.shape = shape, .lengths = {{1, 100}}, .seed = 1250});
    const double step = 1 << type.bits.lower;
    for (int32_t j = 0; j < 100; ++j) {
      for (int32_t d = 0; d < 33; ++d) {
        const Batch::KeyParts parts = batch.key_parts(0, j, 1, d);
        const double found = parts.scale * (step * parts.upper + (step - 1) / 2);
        const double x = batch.key[static_cast<size_t>(j * batch.key_stride() + 33 + d)];
        const double rounding = 4 * kEpsilon * (1 << (type.bits.key() - 1));
        ASSERT_NEAR(x, found, parts.scale * (step / 2 + rounding)) << to_string(type);
      }
    }
  }
}

// One token of one head with these keys and values.
std::vector<float> appended(std::vector<float> x, DType dtype) {
  const auto size = static_cast<int32_t>(x.size());
  AttentionShape shape = shape_of(1, 1, size, size);
  shape.pages.dtype = dtype;
  Batch batch({.shape = shape, .lengths = {{1, 1}}});
  batch.key = batch.value = x;
  batch.append(1);
  std::vector<float> found;
  for (int32_t d = 0; d < size; ++d) {
    found.push_back(batch.cached_key(0, 0, 0, d));
    const float value = batch.cached_value(0, 0, 0, d);
    EXPECT_TRUE(found.back() == value || (std::isnan(found.back()) && std::isnan(value)));
  }
  return found;
}

TEST(AppendToPages, RoundsToNearestEven) {
  EXPECT_EQ(appended({127, -126.5f, 0.5f, 1.5f, -2.5f, 2.51f, 0}, DType::kI8),
            std::vector<float>({127, -126, 0, 2, -2, 3, 0}));
  EXPECT_EQ(appended({0, 0, 0}, DType::kI8), std::vector<float>({0, 0, 0}));
  EXPECT_EQ(appended({1e-42f, -1e-38f}, DType::kI8), std::vector<float>({0, 0}));
  const float most = std::numeric_limits<float>::max();
  EXPECT_EQ(appended({most, 1}, DType::kI8), std::vector<float>({most / 127 * 127, 0}));
  EXPECT_EQ(appended({0x1.01p0f, 0x1.03p0f, 0x1.011p0f, -kInfinity}, DType::kBF16),
            std::vector<float>({1, 0x1.04p0f, 0x1.02p0f, -kInfinity}));
}

TEST(AppendToPages, NotANumberStaysSo) {
  // Its payload is in the bits that bf16 drops.
  const float nan = std::bit_cast<float>(0x7f800001);
  EXPECT_TRUE(std::isnan(appended({1, nan}, DType::kBF16)[1]));
  for (float bad : {nan, kInfinity, -kInfinity}) {
    for (float found : appended({1, bad, 0}, DType::kI8)) EXPECT_TRUE(std::isnan(found));
  }
}

}  // namespace
}  // namespace tessera::testing
