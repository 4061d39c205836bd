#include "evaluate/plot.h"

#include <gtest/gtest.h>

#include <cmath>

#include "evaluate/plot_layout.h"
#include "tessera/report.h"

namespace tessera {
namespace {

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

std::string error_of(const std::string& json) {
  const Result<Plot> plot = plot_from_json(json, "p.json");
  return plot.ok() ? "no error" : plot.status().message();
}

// A plot of one panel with these members.
std::string panel(const std::string& members) { return R"({"panels": [{)" + members + R"(}]})"; }

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(Plot, ReadsWhatItSays) {
  const Result<Plot> plot = plot_from_json(
      R"({"title": "T", "columns": 2, "panels": [{"title": "P", "x": {"label": "ms", "log": true,
      "reference": 2}, "y": {"label": "accuracy"}, "series": [{"name": "s", "style": "line", "points":
      [[1, 2], {"x": 3, "y": 4, "x_range": [2.5, 3.5], "y_range": [3, 5], "label": "here"}]}]}]})",
      "p.json");
  ASSERT_TRUE(plot.ok()) << plot.status().message();
  EXPECT_EQ(plot->title, "T");
  EXPECT_EQ(plot->columns, 2);
  const PlotPanel& found = plot->panels.at(0);
  EXPECT_EQ(found.x.scale, Scale::kLog);
  EXPECT_EQ(found.x.reference, 2);
  EXPECT_EQ(found.y.scale, Scale::kLinear);
  const PlotSeries& series = found.series.at(0);
  EXPECT_EQ(series.style, SeriesStyle::kLine);
  EXPECT_EQ(series.points.at(0).y, 2);
  EXPECT_EQ(series.points.at(1).label, "here");
  EXPECT_EQ(series.points.at(1).y_range->high, 5);
  EXPECT_EQ(series.points.at(1).x_range->low, 2.5);
}

TEST(Plot, NamesTheKeyThatIsWrong) {
  EXPECT_EQ(error_of("[]"), "p.json: expected an object, found []");
  EXPECT_EQ(error_of("{}"), "p.json: expected a member \"panels\", found none");
  EXPECT_CONTAINS(error_of(R"({"panels": []})"), "panels: expected a list of 1 to 64 values");
  EXPECT_CONTAINS(error_of(panel("")), "panels[0]: expected a member \"series\"");
  EXPECT_CONTAINS(error_of(panel(R"("series": [{"points": [[1]]}])")),
                  "panels[0].series[0].points[0]: expected a list of 2 values, found 1");
  EXPECT_CONTAINS(error_of(panel(R"("series": [{"points": [[1, "2"]]}])")),
                  "panels[0].series[0].points[0][1]: expected a number, found \"2\"");
  EXPECT_CONTAINS(error_of(panel(R"("series": [{"points": [[1, 1e300]]}])")), "points[0][1]");
  EXPECT_CONTAINS(error_of(panel(R"("x": {"log": true}, "series": [{"points": [[0, 1]]}])")),
                  "points[0][0]: expected a number above 0");
  EXPECT_CONTAINS(
      error_of(panel(R"("y": {"categories": ["a"]}, "series": [{"points": [[0, 1]]}])")),
      "expected the index of one of 1 categories, found 1");
  EXPECT_CONTAINS(error_of(panel(R"("series": [{"style": "dots", "points": []}])")),
                  "style: expected markers, line or front, found \"dots\"");
  EXPECT_CONTAINS(
      error_of(panel(R"("series": [{"points": [{"x": 1, "y": 1, "y_range": [2, 1]}]}])")),
      "y_range: expected the lower end");
  EXPECT_CONTAINS(error_of(panel(R"("serie": [])")), "expected keys of title, x, y, series");
  EXPECT_CONTAINS(error_of(std::string(100000, '[')), "deep");
  EXPECT_CONTAINS(error_of(R"({"panels": [{"series": [{"points": [[1, NaN]]}]}]})"), "valid JSON");
}

TEST(Plot, DrawsEveryPointOnceAndEscapesTexts) {
  const Result<std::string> svg = draw_plot(
      panel(
          R"("title": "a < b & c", "series": [{"name": "x", "points": [[1, 1], [2, 4], [3, 9]]}])"),
      "p.json");
  ASSERT_TRUE(svg.ok());
  EXPECT_EQ(count(*svg, "<circle"), 3u);
  EXPECT_CONTAINS(*svg, "a &lt; b &amp; c");
  EXPECT_EQ(svg->find("a < b"), std::string::npos);
  EXPECT_EQ(svg->find("nan"), std::string::npos);
  EXPECT_EQ(*svg, *draw_plot(panel(R"("title": "a < b & c", "series":
      [{"name": "x", "points": [[1, 1], [2, 4], [3, 9]]}])"),
                             "other"));
}

TEST(Plot, TakesAnyRangeOfNumbers) {
  for (const char* points : {"[]", "[[5, 5]]", "[[0, 0], [0, 0]]", "[[-1e15, -1e15], [1e15, 1e15]]",
                             "[[1e-15, 3], [1e-15, 3]]", "[[1e12, 1], [1.000001e12, 1]]"}) {
    for (const char* log : {"false", "true"}) {
      if (log[0] == 't' && (points[2] == '-' || points[2] == '0')) continue;
      const Result<std::string> svg =
          draw_plot(panel(std::string(R"("x": {"log": )") + log +
                          R"(}, "series": [{"name": "a", "points": )" + points + "}]"),
                    "p.json");
      ASSERT_TRUE(svg.ok()) << points << svg.status().message();
      EXPECT_EQ(svg->find("nan"), std::string::npos) << points;
      EXPECT_EQ(svg->find("inf"), std::string::npos) << points;
    }
  }
}

TEST(Plot, HasALegendOnlyWhereSeriesAreNotLabelled) {
  const auto svg = [](const std::string& label) {
    return *draw_plot(
        panel(R"("series": [{"name": "first", "points": [{"x": 1, "y": 1, "label": ")" + label +
              R"("}]}, {"name": "second", "points": [[2, 2]]}])"),
        "p.json");
  };
  EXPECT_EQ(count(svg(""), ">first<"), 1u);
  EXPECT_EQ(count(svg("point"), ">first<"), 0u);
  EXPECT_EQ(count(svg("point"), ">point<"), 1u);
}

TEST(PlotLayout, TicksAreRoundAndInsideTheAxis) {
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

TEST(PlotLayout, LogarithmicTicksHaveEqualSteps) {
  const AxisScale scale({.scale = Scale::kLog}, {1, 10000}, 400);
  EXPECT_NEAR(scale.at(100) - scale.at(10), scale.at(1000) - scale.at(100), 1e-9);
  EXPECT_GE(scale.ticks().size(), 3u);
}

double shared_area(const Box& a, const Box& b) {
  const double width = std::min(a.right, b.right) - std::max(a.left, b.left);
  const double height = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
  return std::max(0.0, width) * std::max(0.0, height);
}

TEST(PlotLayout, LabelsHideNeitherEachOtherNorPoints) {
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

TEST(PlotLayout, LabelsOfOnePlaceAreJoined) {
  std::vector<Label> labels = {{{"a"}, {10, 10}}, {{"b"}, {60, 10}}, {{"c"}, {12, 11}}};
  join_labels(labels);
  ASSERT_EQ(labels.size(), 2u);
  EXPECT_EQ(labels[0].lines, (std::vector<std::string>{"a", "c"}));
}

}  // namespace
}  // namespace tessera
