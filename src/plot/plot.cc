#include "plot/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "plot/layout.h"

namespace tessera {
namespace {

constexpr double kTitleSize = 15, kPanelTitleSize = 13, kTextSize = 12, kTickSize = 11;
constexpr double kMargin = 14;
constexpr double kOneWide = 520, kSeveralWide = 350, kHeight = 290, kRowHeight = 22;
constexpr double kMarkerSize = 4.5;
constexpr const char* kInk = "#222222";
constexpr const char* kGrey = "#6b6b6b";
constexpr const char* kGrid = "#e3e3e3";
// Okabe and Ito's, the yellow darkened so that it can be seen on white.
constexpr const char* kColours[] = {"#0072B2", "#E69F00", "#009E73", "#CC79A7",
                                    "#56B4E9", "#D55E00", "#000000", "#B8A800"};
// On a square from -1 to 1: circle (drawn as such), square, triangles, diamond, plus, cross, hour
// glass.
constexpr const char* kMarkers[] = {
    "",
    "M-.9-.9h1.8v1.8h-1.8z",
    "M0-1.15L1.05.8h-2.1z",
    "M0-1.25L1.1 0 0 1.25-1.1 0z",
    "M0 1.15L1.05-.8h-2.1z",
    "M-.4-1.2h.8v.8h.8v.8h-.8v.8h-.8v-.8h-.8v-.8h.8z",
    "M-1.1-.6L-.6-1.1 0-.5.6-1.1 1.1-.6.5 0 1.1.6.6 1.1 0 .5-.6 1.1-1.1.6-.5 0z",
    "M-1-1h2L0 0 1 1h-2L0 0z"};

// XML has no place for most control characters, escaped or not.
std::string escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  // Nor for these two noncharacters.
  for (const char* wrong : {"\xef\xbf\xbe", "\xef\xbf\xbf"}) {
    for (size_t at; (at = out.find(wrong)) != std::string::npos;) out.replace(at, 3, "?");
  }
  return out;
}

enum class Anchor { kStart, kMiddle, kEnd };

struct Text {
  Spot at;  // of the base line
  double size = kTextSize;
  Anchor anchor = Anchor::kStart;
  const char* colour = kInk;
  const char* more = "";  // attributes
};

class Drawing {
 public:
  void text(const Text& how, const std::string& words) {
    constexpr const char* kAnchors[] = {"start", "middle", "end"};
    body_ += fmt::format(
        "<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{}\" text-anchor=\"{}\" "
        "fill=\"{}\"{}>{}</text>\n",
        how.at.x, how.at.y, how.size, kAnchors[static_cast<int>(how.anchor)], how.colour, how.more,
        escape(words));
  }
  void line(Spot from, Spot to, const char* colour, double width, const char* more = "") {
    body_ += fmt::format(
        "<path d=\"M{:.1f} {:.1f}L{:.1f} {:.1f}\" stroke=\"{}\" stroke-width=\"{}\" "
        "fill=\"none\"{}/>\n",
        from.x, from.y, to.x, to.y, colour, width, more);
  }
  void ground(const Box& box) {
    body_ += fmt::format(
        "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"#ffffff\" "
        "opacity=\"0.75\"/>\n",
        box.left, box.top, box.right - box.left, box.bottom - box.top);
  }
  void path(const std::string& d, const char* colour, double width, const char* more = "") {
    body_ += fmt::format("<path d=\"{}\" stroke=\"{}\" stroke-width=\"{}\" fill=\"none\"{}/>\n", d,
                         colour, width, more);
  }
  void marker(size_t series, Spot at) {
    const char* colour = kColours[series % std::size(kColours)];
    // Where colours begin again, the markers are moved on, so that both together stay apart.
    const size_t shape = (series + series / std::size(kColours)) % std::size(kMarkers);
    if (shape == 0) {
      body_ += fmt::format(
          "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"{}\" stroke=\"#fff\" "
          "stroke-width=\"0.8\"/>\n",
          at.x, at.y, kMarkerSize, colour);
      return;
    }
    body_ += fmt::format(
        "<path transform=\"translate({:.1f} {:.1f}) scale({})\" d=\"{}\" fill=\"{}\" "
        "stroke=\"#fff\" stroke-width=\"0.17\"/>\n",
        at.x, at.y, kMarkerSize, kMarkers[shape], colour);
  }
  std::string take() { return std::move(body_); }

 private:
  std::string body_;
};

const char* colour_of(size_t series) { return kColours[series % std::size(kColours)]; }

std::vector<double> values_of(const PlotPanel& panel, double PlotPoint::*value,
                              std::optional<PlotRange> PlotPoint::*range) {
  std::vector<double> values;
  for (const PlotSeries& series : panel.series) {
    for (const PlotPoint& point : series.points) {
      values.push_back(point.*value);
      if (!(point.*range)) continue;
      values.push_back((point.*range)->low);
      values.push_back((point.*range)->high);
    }
  }
  return values;
}

bool has_legend(const PlotPanel& panel) {
  size_t named = 0;
  bool labelled = false;
  for (const PlotSeries& series : panel.series) {
    named += series.style != SeriesStyle::kFront && !series.name.empty();
    for (const PlotPoint& point : series.points) labelled = labelled || !point.label.empty();
  }
  return named > 1 && !labelled;
}

// One panel: its size follows from what it holds, then it is drawn at an offset.
class PanelDrawing {
 public:
  PanelDrawing(const PlotPanel& panel, double width)
      : panel_(panel),
        width_(panel.x.categories.empty()
                   ? width
                   : std::max(width, kRowHeight * static_cast<double>(panel.x.categories.size()))),
        height_(panel.y.categories.empty()
                    ? kHeight
                    : kRowHeight * static_cast<double>(panel.y.categories.size())),
        x_(panel.x, values_of(panel, &PlotPoint::x, &PlotPoint::x_range), width_),
        y_(panel.y, values_of(panel, &PlotPoint::y, &PlotPoint::y_range), height_) {
    double widest = 0;
    for (const std::string& text : y_.texts())
      widest = std::max(widest, text_width(text, kTickSize));
    left_ = widest + 10 + (panel.y.label.empty() ? 0 : kTextSize + 8);
    top_ = panel.title.empty() ? 8 : kPanelTitleSize + 12;
    bottom_ = kTickSize + 10 + (panel.x.label.empty() ? 0 : kTextSize + 8);
    // A text under the last tick may reach beyond the frame.
    right_ = 12;
    if (!has_legend(panel)) return;
    for (const PlotSeries& series : panel.series)
      right_ = std::max(right_, 34 + text_width(series.name, kTextSize));
  }

  double width() const {
    // A title and an axis label may be wider than what they stand at.
    const double title = text_width(panel_.title, kPanelTitleSize) * 1.05;
    const double label = width_ / 2 + text_width(panel_.x.label, kTextSize) / 2;
    return left_ + std::max({width_ + right_, title, label});
  }
  double height() const {
    const double legend = has_legend(panel_) ? 20 * static_cast<double>(panel_.series.size()) : 0;
    return top_ + std::max(height_, legend) + bottom_;
  }

  void draw(Spot corner, Drawing& out) {
    origin_ = {corner.x + left_, corner.y + top_};
    if (!panel_.title.empty()) {
      out.text({{origin_.x, corner.y + kPanelTitleSize},
                kPanelTitleSize,
                Anchor::kStart,
                kInk,
                " font-weight=\"bold\""},
               panel_.title);
    }
    draw_axes(out);
    for (size_t i = 0; i < panel_.series.size(); ++i) draw_line(i, out);
    for (size_t i = 0; i < panel_.series.size(); ++i) draw_ranges(i, out);
    // The first series lies above the others.
    for (size_t i = panel_.series.size(); i-- > 0;) draw_markers(i, out);
    draw_labels(out);
    if (has_legend(panel_)) draw_legend(out);
  }

 private:
  Spot spot(double x, double y) const {
    const double down = panel_.y.categories.empty() ? height_ - y_.at(y) : y_.at(y);
    return {origin_.x + x_.at(x), origin_.y + down};
  }
  Spot spot(const PlotPoint& point) const { return spot(point.x, point.y); }

  void draw_axes(Drawing& out) {
    const double bottom = origin_.y + height_;
    const double right = origin_.x + width_;
    for (size_t i = 0; i < x_.ticks().size(); ++i) {
      const double x = origin_.x + x_.at(x_.ticks()[i]);
      if (x_.texts()[i].empty()) continue;
      out.line({x, origin_.y}, {x, bottom}, kGrid, 1);
      out.text({{x, bottom + kTickSize + 5}, kTickSize, Anchor::kMiddle, kGrey}, x_.texts()[i]);
    }
    for (size_t i = 0; i < y_.ticks().size(); ++i) {
      const double up = y_.at(y_.ticks()[i]);
      const double y = panel_.y.categories.empty() ? bottom - up : origin_.y + up;
      if (y_.texts()[i].empty()) continue;
      out.line({origin_.x, y}, {right, y}, kGrid, 1);
      out.text({{origin_.x - 6, y + 0.35 * kTickSize}, kTickSize, Anchor::kEnd, kGrey},
               y_.texts()[i]);
    }
    if (panel_.x.reference) {
      const double x = origin_.x + x_.at(*panel_.x.reference);
      out.line({x, origin_.y}, {x, bottom}, kGrey, 1.2);
    }
    if (panel_.y.reference) {
      const double y = bottom - y_.at(*panel_.y.reference);
      out.line({origin_.x, y}, {right, y}, kGrey, 1.2);
    }
    out.path(fmt::format("M{:.1f} {:.1f}V{:.1f}H{:.1f}", origin_.x, origin_.y, bottom, right),
             kGrey, 1);
    if (!panel_.x.label.empty()) {
      out.text({{origin_.x + width_ / 2, bottom + kTickSize + kTextSize + 13},
                kTextSize,
                Anchor::kMiddle},
               panel_.x.label);
    }
    if (panel_.y.label.empty()) return;
    const Spot at{origin_.x - left_ + kTextSize, origin_.y + height_ / 2};
    const std::string turn = fmt::format(" transform=\"rotate(-90 {:.1f} {:.1f})\"", at.x, at.y);
    out.text({at, kTextSize, Anchor::kMiddle, kInk, turn.c_str()}, panel_.y.label);
  }

  void draw_line(size_t index, Drawing& out) {
    const PlotSeries& series = panel_.series[index];
    if (series.style == SeriesStyle::kMarkers || series.points.empty()) return;
    std::vector<PlotPoint> points = series.points;
    std::stable_sort(points.begin(), points.end(),
                     [](const PlotPoint& a, const PlotPoint& b) { return a.x < b.x; });
    std::string d;
    for (const PlotPoint& point : points) {
      const Spot at = spot(point);
      if (d.empty()) {
        d = fmt::format("M{:.1f} {:.1f}", at.x, at.y);
      } else if (series.style == SeriesStyle::kFront) {
        d += fmt::format("H{:.1f}V{:.1f}", at.x, at.y);
      } else {
        d += fmt::format("L{:.1f} {:.1f}", at.x, at.y);
      }
    }
    if (series.style == SeriesStyle::kFront) {
      d += fmt::format("H{:.1f}", origin_.x + width_);
      out.path(d, kGrey, 1.2, " stroke-dasharray=\"5 3\"");
    } else {
      out.path(d, colour_of(index), 1.8);
    }
  }

  void draw_ranges(size_t index, Drawing& out) {
    constexpr double kCap = 3;
    const char* colour = colour_of(index);
    for (const PlotPoint& point : panel_.series[index].points) {
      if (point.y_range) {
        const Spot low = spot(point.x, point.y_range->low);
        const Spot high = spot(point.x, point.y_range->high);
        out.path(
            fmt::format("M{0:.1f} {2:.1f}H{1:.1f}M{3:.1f} {2:.1f}V{4:.1f}M{0:.1f} {4:.1f}H{1:.1f}",
                        low.x - kCap, low.x + kCap, low.y, low.x, high.y),
            colour, 1.2, " opacity=\"0.75\"");
      }
      if (point.x_range) {
        const Spot low = spot(point.x_range->low, point.y);
        const Spot high = spot(point.x_range->high, point.y);
        out.path(
            fmt::format("M{2:.1f} {0:.1f}V{1:.1f}M{2:.1f} {3:.1f}H{4:.1f}M{4:.1f} {0:.1f}V{1:.1f}",
                        low.y - kCap, low.y + kCap, low.x, low.y, high.x),
            colour, 1.2, " opacity=\"0.75\"");
      }
    }
  }

  void draw_markers(size_t index, Drawing& out) {
    const PlotSeries& series = panel_.series[index];
    if (series.style == SeriesStyle::kFront) return;
    for (const PlotPoint& point : series.points) out.marker(index, spot(point));
  }

  // Labels may lie over error bars where there is no better place, never over markers.
  void draw_labels(Drawing& out) {
    constexpr double kAround = kMarkerSize + 2, kBarWeight = 0.04;
    std::vector<Label> labels;
    std::vector<Obstacle> obstacles;
    for (const PlotSeries& series : panel_.series) {
      if (series.style == SeriesStyle::kFront) continue;
      for (const PlotPoint& point : series.points) {
        const Spot at = spot(point);
        obstacles.push_back({{at.x - kAround, at.y - kAround, at.x + kAround, at.y + kAround}});
        if (!point.label.empty()) labels.push_back({{point.label}, at});
        if (!point.y_range) continue;
        const double top = spot(point.x, point.y_range->high).y;
        const double bottom = spot(point.x, point.y_range->low).y;
        obstacles.push_back({{at.x - 2, top, at.x + 2, bottom}, kBarWeight});
      }
    }
    join_labels(labels);
    const Box frame{origin_.x + 2, origin_.y, origin_.x + width_ + right_, origin_.y + height_ - 2};
    const std::vector<PlacedLabel> places = place_labels(labels, obstacles, frame, kTickSize);
    for (size_t i = 0; i < labels.size(); ++i) draw_label(labels[i], places[i], out);
  }

  void draw_label(const Label& label, const PlacedLabel& place, Drawing& out) {
    const Box& box = place.box;
    const Spot& point = label.point;
    if (place.is_far) {
      const Spot end{std::clamp(point.x, box.left, box.right),
                     std::clamp(point.y, box.top, box.bottom)};
      out.line(end, point, kGrey, 0.7);
    }
    // On the side of the point, so that it is seen what belongs together.
    const bool is_right = box.left > point.x, is_left = box.right < point.x;
    Text how{{is_right  ? box.left
              : is_left ? box.right
                        : (box.left + box.right) / 2,
              box.top - 0.3 * kTickSize},
             kTickSize,
             is_right  ? Anchor::kStart
             : is_left ? Anchor::kEnd
                       : Anchor::kMiddle};
    // Readable over lines, and these still to be seen.
    out.ground(box);
    for (const std::string& line : label.lines) {
      how.at.y += kLabelLine * kTickSize;
      out.text(how, line);
    }
  }

  void draw_legend(Drawing& out) {
    double y = origin_.y + 8;
    for (size_t i = 0; i < panel_.series.size(); ++i) {
      const PlotSeries& series = panel_.series[i];
      if (series.style == SeriesStyle::kFront) continue;
      const double x = origin_.x + width_ + 18;
      if (series.style == SeriesStyle::kLine) out.line({x - 9, y}, {x + 9, y}, colour_of(i), 1.8);
      out.marker(i, {x, y});
      out.text({{x + 14, y + 0.35 * kTextSize}}, series.name);
      y += 20;
    }
  }

  const PlotPanel& panel_;
  double width_, height_;  // of the frame
  AxisScale x_, y_;
  double left_ = 0, top_ = 0, right_ = 0, bottom_ = 0;  // around it
  Spot origin_;                                         // of its upper left corner
};

}  // namespace

std::string draw_svg(const Plot& plot) {
  const auto columns = static_cast<size_t>(std::max(1, plot.columns));
  std::vector<PanelDrawing> panels;
  for (const PlotPanel& panel : plot.panels)
    panels.emplace_back(panel, columns == 1 ? kOneWide : kSeveralWide);
  std::vector<double> widths(columns, 0), heights;
  for (size_t i = 0; i < panels.size(); ++i) {
    if (i % columns == 0) heights.push_back(0);
    widths[i % columns] = std::max(widths[i % columns], panels[i].width());
    heights.back() = std::max(heights.back(), panels[i].height());
  }
  constexpr double kBetween = 22;
  Drawing drawing;
  double y = kMargin;
  if (!plot.title.empty()) {
    drawing.text(
        {{kMargin, y + kTitleSize}, kTitleSize, Anchor::kStart, kInk, " font-weight=\"bold\""},
        plot.title);
    y += kTitleSize + 14;
  }
  double right = kMargin + text_width(plot.title, kTitleSize) * 1.05;
  for (size_t i = 0; i < panels.size(); ++i) {
    double x = kMargin;
    for (size_t c = 0; c < i % columns; ++c) x += widths[c] + kBetween;
    panels[i].draw({x, y}, drawing);
    right = std::max(right, x + widths[i % columns]);
    if (i % columns == columns - 1 || i + 1 == panels.size()) y += heights[i / columns] + kBetween;
  }
  const int width = static_cast<int>(std::ceil(right + kMargin));
  const int height = static_cast<int>(std::ceil(y - (panels.empty() ? 0 : kBetween) + kMargin));
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 "
             "{0} "
             "{1}\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n"
             "<title>{2}</title>\n<rect width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n",
             width, height, escape(plot.title)) +
         drawing.take() + "</svg>\n";
}

}  // namespace tessera
