#include "plot/plot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace tessera {
namespace {

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

Plot of_one_panel(PlotPanel panel) { return {.panels = {std::move(panel)}}; }

TEST(Plot, DrawsEveryPointOnceAndEscapesTexts) {
  const Plot plot = of_one_panel(
      {.title = "a < b & c", .series = {{.name = "x", .points = {{1, 1}, {2, 4}, {3, 9}}}}});
  const std::string svg = draw_svg(plot);
  EXPECT_EQ(count(svg, "<circle"), 3u);
  EXPECT_CONTAINS(svg, "a &lt; b &amp; c");
  EXPECT_EQ(svg.find("a < b"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg, draw_svg(plot));
}

TEST(Plot, TakesAnyRangeOfNumbers) {
  const std::vector<std::vector<PlotPoint>> cases = {
      {},
      {{5, 5}},
      {{0, 0}, {0, 0}},
      {{-1e15, -1e15}, {1e15, 1e15}},
      {{1e-15, 3}, {1e-15, 3}},
      {{1e12, 1}, {1.000001e12, 1}},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    for (const Scale scale : {Scale::kLinear, Scale::kLog}) {
      const bool has_logarithms =
          std::all_of(cases[i].begin(), cases[i].end(), [](const PlotPoint& p) { return p.x > 0; });
      if (scale == Scale::kLog && !has_logarithms) continue;
      const std::string svg = draw_svg(
          of_one_panel({.x = {.scale = scale}, .series = {{.name = "a", .points = cases[i]}}}));
      EXPECT_EQ(svg.find("nan"), std::string::npos) << "case " << i;
      EXPECT_EQ(svg.find("inf"), std::string::npos) << "case " << i;
    }
  }
}

TEST(Plot, HasALegendOnlyWhereSeriesAreNotLabelled) {
  const auto svg = [](const std::string& label) {
    PlotPoint point{1, 1};
    point.label = label;
    return draw_svg(of_one_panel({.series = {{.name = "first", .points = {point}},
                                             {.name = "second", .points = {{2, 2}}}}}));
  };
  EXPECT_EQ(count(svg(""), ">first<"), 1u);
  EXPECT_EQ(count(svg("point"), ">first<"), 0u);
  EXPECT_EQ(count(svg("point"), ">point<"), 1u);
}

}  // namespace
}  // namespace tessera
