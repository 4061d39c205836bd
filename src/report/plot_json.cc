#include "report/plot_json.h"

#include <fmt/format.h>

#include <cmath>

#include "base/guarded.h"
#include "io/json.h"
#include "io/json_at.h"
#include "io/mapped_file.h"
#include "tessera/report.h"

namespace tessera {
namespace {

constexpr double kMost = 1e15;  // of any number, so that no difference overflows
constexpr int64_t kMostColumns = 16;
constexpr size_t kMostPanels = 64, kMostSeries = 256, kMostPoints = 100'000, kMostCategories = 1000;

// A number that its axis can show.
Result<double> coordinate(const JsonAt& at, const PlotAxis& axis) {
  TESSERA_ASSIGN_OR_RETURN(const double value, at.number(-kMost, kMost));
  if (!axis.categories.empty() && (value != std::floor(value) || value < 0 ||
                                   value >= static_cast<double>(axis.categories.size()))) {
    return at.wrong(fmt::format("the index of one of {} categories", axis.categories.size()));
  }
  if (axis.scale == Scale::kLog && axis.categories.empty() && value < 1 / kMost)
    return at.wrong("a number above 0, for the axis is logarithmic");
  return value;
}

Result<std::optional<PlotRange>> range_of(const JsonAt& point, const char* key,
                                          const PlotAxis& axis) {
  const std::optional<JsonAt> at = point.find(key);
  if (!at) return std::optional<PlotRange>();
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> ends, at->list(2, 2));
  PlotRange range;
  TESSERA_ASSIGN_OR_RETURN(range.low, coordinate(ends[0], axis));
  TESSERA_ASSIGN_OR_RETURN(range.high, coordinate(ends[1], axis));
  if (range.low > range.high) return at->wrong("the lower end and then the upper one");
  return std::optional(range);
}

Result<PlotPoint> point_of(const JsonAt& at, const PlotPanel& panel) {
  PlotPoint point;
  if (at.is_list()) {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> pair, at.list(2, 2));
    TESSERA_ASSIGN_OR_RETURN(point.x, coordinate(pair[0], panel.x));
    TESSERA_ASSIGN_OR_RETURN(point.y, coordinate(pair[1], panel.y));
    return point;
  }
  TESSERA_RETURN_IF_ERROR(at.known({"x", "y", "x_range", "y_range", "label"}));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt x, at.need("x"));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt y, at.need("y"));
  TESSERA_ASSIGN_OR_RETURN(point.x, coordinate(x, panel.x));
  TESSERA_ASSIGN_OR_RETURN(point.y, coordinate(y, panel.y));
  TESSERA_ASSIGN_OR_RETURN(point.x_range, range_of(at, "x_range", panel.x));
  TESSERA_ASSIGN_OR_RETURN(point.y_range, range_of(at, "y_range", panel.y));
  TESSERA_ASSIGN_OR_RETURN(point.label, at.text_or("label", ""));
  return point;
}

Result<PlotAxis> axis_of(const JsonAt& panel, const char* key) {
  PlotAxis axis;
  const std::optional<JsonAt> at = panel.find(key);
  if (!at) return axis;
  TESSERA_RETURN_IF_ERROR(at->known({"label", "log", "reference", "categories"}));
  TESSERA_ASSIGN_OR_RETURN(axis.label, at->text_or("label", ""));
  if (const std::optional<JsonAt> log = at->find("log")) {
    TESSERA_ASSIGN_OR_RETURN(const Truth truth, log->truth());
    if (truth == Truth::kYes) axis.scale = Scale::kLog;
  }
  if (const std::optional<JsonAt> categories = at->find("categories")) {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> names, categories->list(1, kMostCategories));
    for (const JsonAt& each : names) {
      TESSERA_ASSIGN_OR_RETURN(std::string name, each.text());
      axis.categories.push_back(std::move(name));
    }
  }
  if (const std::optional<JsonAt> reference = at->find("reference")) {
    TESSERA_ASSIGN_OR_RETURN(axis.reference, coordinate(*reference, axis));
  }
  return axis;
}

Result<PlotSeries> series_of(const JsonAt& at, const PlotPanel& panel) {
  TESSERA_RETURN_IF_ERROR(at.known({"name", "style", "points"}));
  PlotSeries series;
  TESSERA_ASSIGN_OR_RETURN(series.name, at.text_or("name", ""));
  if (const std::optional<JsonAt> style = at.find("style")) {
    TESSERA_ASSIGN_OR_RETURN(const size_t which, style->one_of({"markers", "line", "front"}));
    series.style = static_cast<SeriesStyle>(which);
  }
  TESSERA_ASSIGN_OR_RETURN(const JsonAt points, at.need("points"));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, points.list(0, kMostPoints));
  for (const JsonAt& each : list) {
    TESSERA_ASSIGN_OR_RETURN(PlotPoint point, point_of(each, panel));
    series.points.push_back(std::move(point));
  }
  return series;
}

Result<PlotPanel> panel_of(const JsonAt& at) {
  TESSERA_RETURN_IF_ERROR(at.known({"title", "x", "y", "series"}));
  PlotPanel panel;
  TESSERA_ASSIGN_OR_RETURN(panel.title, at.text_or("title", ""));
  TESSERA_ASSIGN_OR_RETURN(panel.x, axis_of(at, "x"));
  TESSERA_ASSIGN_OR_RETURN(panel.y, axis_of(at, "y"));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt all, at.need("series"));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, all.list(1, kMostSeries));
  for (const JsonAt& each : list) {
    TESSERA_ASSIGN_OR_RETURN(PlotSeries series, series_of(each, panel));
    panel.series.push_back(std::move(series));
  }
  return panel;
}

Result<Plot> read_plot(const JsonAt& root) {
  TESSERA_RETURN_IF_ERROR(root.known({"title", "columns", "panels"}));
  Plot plot;
  TESSERA_ASSIGN_OR_RETURN(plot.title, root.text_or("title", ""));
  TESSERA_ASSIGN_OR_RETURN(const int64_t columns, root.integer_or("columns", 1, 1, kMostColumns));
  plot.columns = static_cast<int>(columns);
  TESSERA_ASSIGN_OR_RETURN(const JsonAt panels, root.need("panels"));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, panels.list(1, kMostPanels));
  for (const JsonAt& each : list) {
    TESSERA_ASSIGN_OR_RETURN(PlotPanel panel, panel_of(each));
    plot.panels.push_back(std::move(panel));
  }
  return plot;
}

}  // namespace

Result<Plot> plot_from_json(const std::string& text, const std::string& source) {
  return guarded(source, [&]() -> Result<Plot> {
    TESSERA_ASSIGN_OR_RETURN(const Json root, parse_json(text, source));
    return read_plot(JsonAt(root, source));
  });
}

Result<std::string> draw_plot(const std::string& json, const std::string& source) {
  return guarded(source, [&]() -> Result<std::string> {
    TESSERA_ASSIGN_OR_RETURN(const Plot plot, plot_from_json(json, source));
    return draw_svg(plot);
  });
}

Status write_plot(const std::string& json, const std::string& source, const std::string& svg_path) {
  return guarded(svg_path, [&]() -> Status {
    TESSERA_ASSIGN_OR_RETURN(const std::string svg, draw_plot(json, source));
    return write_file_atomically(svg_path, svg);
  });
}

}  // namespace tessera
