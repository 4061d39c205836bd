#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "plot/plot.h"

// Where things stand in a plot: what is not drawing.
namespace tessera {

struct Box {
  double left = 0, top = 0, right = 0, bottom = 0;
};
struct Spot {
  double x = 0, y = 0;
};

// At most: of the widest of the fonts that a reader's machine may put in.
double text_width(std::string_view text, double font_size);

// "0.25", "12000", "2M": no more digits than the number has, at most five.
std::string tick_text(double value);

// From a value to the place on a length of pixels; where the ticks are.
class AxisScale {
 public:
  // Widened to round numbers. values may be empty. length in pixels.
  AxisScale(const PlotAxis& axis, const std::vector<double>& values, double length);
  double at(double value) const;  // 0 at the least value, length at the greatest
  const std::vector<double>& ticks() const { return ticks_; }
  // The labels of the ticks, in their order; empty ones are not written.
  const std::vector<std::string>& texts() const { return texts_; }

 private:
  void make_linear(double low, double high);
  void make_log(double low, double high);

  Scale scale_;
  double length_;
  double low_ = 0, high_ = 1;  // of the logarithms where the scale is
  std::vector<double> ticks_;
  std::vector<std::string> texts_;
};

struct Label {
  std::vector<std::string> lines;
  Spot point;  // what it belongs to
};
// Labels of points that lie on each other become one of several lines.
void join_labels(std::vector<Label>& labels);

// What a label should not hide, the more the larger the weight.
struct Obstacle {
  Box box;
  double weight = 1;
};
struct PlacedLabel {
  Box box;
  bool is_far = false;  // wants a line to its point
};
inline constexpr double kLabelLine = 1.2;  // of the font size, from one base line to the next
// Places for labels inside frame that hide neither each other nor the obstacles, as far as there
// are any: the nearest free one of each, settled in a few rounds.
std::vector<PlacedLabel> place_labels(const std::vector<Label>& labels,
                                      const std::vector<Obstacle>& obstacles, const Box& frame,
                                      double font_size);

}  // namespace tessera
