#include "report/plot_json.h"

#include <gtest/gtest.h>

#include <string>

namespace tessera {
namespace {

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

std::string error_of(const std::string& json) {
  const Result<Plot> plot = plot_from_json(json, "p.json");
  return plot.ok() ? "no error" : plot.status().message();
}

// A plot of one panel with these members.
std::string panel(const std::string& members) { return R"({"panels": [{)" + members + R"(}]})"; }

TEST(PlotJson, ReadsWhatItSays) {
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

TEST(PlotJson, NamesTheKeyThatIsWrong) {
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

}  // namespace
}  // namespace tessera
