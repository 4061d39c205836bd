#pragma once

#include <optional>
#include <string>
#include <vector>

namespace tessera {

enum class Scale { kLinear, kLog };

struct PlotAxis {
  std::string label;  // with its unit
  Scale scale = Scale::kLinear;
  std::optional<double> reference;  // a line across the panel
  // Not empty: the axis is a list, and its values are indices into it; y lists go down.
  std::vector<std::string> categories;
};

// kFront is a grey stair through the points without markers or a place in the legend: each point
// holds until the next one's x.
enum class SeriesStyle { kMarkers, kLine, kFront };

struct PlotRange {
  double low = 0, high = 0;
};

struct PlotPoint {
  double x = 0, y = 0;
  std::optional<PlotRange> x_range, y_range;  // error bars
  std::string label;                          // beside the point
};

struct PlotSeries {
  std::string name;  // in the legend, which stands where points have no labels
  SeriesStyle style = SeriesStyle::kMarkers;
  std::vector<PlotPoint> points;
};

struct PlotPanel {
  std::string title;
  PlotAxis x, y;
  std::vector<PlotSeries> series;
};

// Panels in rows of so many columns.
struct Plot {
  std::string title;
  int columns = 1;
  std::vector<PlotPanel> panels;
};

// An SVG document on a white ground, in the colours of Okabe and Ito, which the colour-blind can
// tell apart; each series has a marker of its own as well. Equal plots give equal bytes. Numbers
// must be finite and, on a logarithmic axis, above 0; labels are moved until they hide nothing.
std::string draw_svg(const Plot& plot);

}  // namespace tessera
