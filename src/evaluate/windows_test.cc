#include "evaluate/windows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace tessera::evaluation {
namespace {

// Every token but those without one before them in their window is predicted once, in its order.
TEST(Windows, PredictEveryTokenOnce) {
  for (int32_t tokens = 1; tokens <= 23; ++tokens) {
    std::vector<int32_t> ids(static_cast<size_t>(tokens));
    std::iota(ids.begin(), ids.end(), 100);
    for (int32_t window = 2; window <= 9; ++window) {
      for (int32_t stride = 1; stride <= window; ++stride) {
        std::vector<int64_t> expected, found;
        for (int64_t t = 1; t < tokens; ++t) {
          if (stride < window || t % window != 0) expected.push_back(t);
        }
        for (const Window& each : sliding_windows(ids, window, stride)) {
          EXPECT_LE(each.tokens.ids.size(), static_cast<size_t>(window));
          EXPECT_EQ(each.tokens.ids[0], 100 + each.begin);
          for (const int32_t row : each.rows) {
            ASSERT_LT(static_cast<size_t>(row) + 1, each.tokens.ids.size());
            found.push_back(each.begin + row + 1);
          }
        }
        EXPECT_EQ(found, expected) << tokens << " " << window << " " << stride;
      }
    }
  }
}

TEST(Windows, SideBySide) {
  const std::vector<int32_t> ids = {1, 2, 3, 4, 5};
  const std::vector<Window> windows = disjoint_windows(ids, 2);
  ASSERT_EQ(windows.size(), 3U);
  EXPECT_EQ(windows[2].tokens.ids, (std::vector<int32_t>{5}));
  EXPECT_EQ(windows[1].rows, (std::vector<int32_t>{0, 1}));
}

}  // namespace
}  // namespace tessera::evaluation
