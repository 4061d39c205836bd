#include "plot/layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace tessera {
namespace {

TEST(Layout, TicksAreRoundAndInsideTheAxis) {
  for (const double low : {0.0, 0.8, 10.0, -3.0, 1e6}) {
    for (const double span : {1e-3, 0.05, 1.0, 7.0, 12345.0}) {
      const AxisScale scale({}, {low, low + span}, 300);
      ASSERT_GE(scale.ticks().size(), 2u) << low << " " << span;
      ASSERT_LE(scale.ticks().size(), 12u) << low << " " << span;
      for (const double tick : scale.ticks()) {
        EXPECT_GE(scale.at(tick), -1e-6);
        EXPECT_LE(scale.at(tick), 300 + 1e-6);
      }
      EXPECT_LT(scale.at(low), scale.at(low + span));
    }
  }
  EXPECT_EQ(tick_text(0.1 + 0.2), "0.3");
  EXPECT_EQ(tick_text(12000), "12000");
  EXPECT_EQ(tick_text(2.5e6), "2.5M");
}

TEST(Layout, LogarithmicTicksHaveEqualSteps) {
  const AxisScale scale({.scale = Scale::kLog}, {1, 10000}, 400);
  EXPECT_NEAR(scale.at(100) - scale.at(10), scale.at(1000) - scale.at(100), 1e-9);
  EXPECT_GE(scale.ticks().size(), 3u);
}

double shared_area(const Box& a, const Box& b) {
  const double width = std::min(a.right, b.right) - std::max(a.left, b.left);
  const double height = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
  return std::max(0.0, width) * std::max(0.0, height);
}

TEST(Layout, LabelsHideNeitherEachOtherNorPoints) {
  std::vector<Label> labels;
  std::vector<Obstacle> obstacles;
  for (int i = 0; i < 8; ++i) {
    const Spot point{100.0 + 9 * i, 150.0 + (i % 2)};
    labels.push_back({{"variant " + std::to_string(i)}, point});
    obstacles.push_back({{point.x - 6, point.y - 6, point.x + 6, point.y + 6}});
  }
  const Box frame{0, 0, 350, 290};
  const std::vector<PlacedLabel> places = place_labels(labels, obstacles, frame, 11);
  ASSERT_EQ(places.size(), labels.size());
  for (size_t i = 0; i < places.size(); ++i) {
    EXPECT_GE(places[i].box.left, frame.left);
    EXPECT_LE(places[i].box.right, frame.right);
    for (const Obstacle& obstacle : obstacles)
      EXPECT_EQ(shared_area(places[i].box, obstacle.box), 0);
    for (size_t j = 0; j < i; ++j)
      EXPECT_EQ(shared_area(places[i].box, places[j].box), 0) << i << j;
  }
}

TEST(Layout, LabelsOfOnePlaceAreJoined) {
  std::vector<Label> labels = {{{"a"}, {10, 10}}, {{"b"}, {60, 10}}, {{"c"}, {12, 11}}};
  join_labels(labels);
  ASSERT_EQ(labels.size(), 2u);
  EXPECT_EQ(labels[0].lines, (std::vector<std::string>{"a", "c"}));
}

}  // namespace
}  // namespace tessera
