#include "plot/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

namespace tessera {
namespace {

constexpr int kRounds = 4;
// Beyond so many labels, or labels times obstacles, each label takes the nearest place and none are
// joined: nobody could read them.
constexpr size_t kMostLabels = 400, kMostPairs = 400 * 1000;

double overlap(const Box& a, const Box& b) {
  const double width = std::min(a.right, b.right) - std::max(a.left, b.left);
  const double height = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
  return width > 0 && height > 0 ? width * height : 0;
}

double outside(const Box& box, const Box& frame) {
  return std::max(0.0, frame.left - box.left) + std::max(0.0, box.right - frame.right) +
         std::max(0.0, frame.top - box.top) + std::max(0.0, box.bottom - frame.bottom);
}

Spot nearest(const Box& box, const Spot& point) {
  return {std::clamp(point.x, box.left, box.right), std::clamp(point.y, box.top, box.bottom)};
}

// How much of the line from the label to its point a box hides, roughly: of ten points on it.
double hidden_line(const Box& label, const Spot& point, const Box& box) {
  const Spot start = nearest(label, point);
  double hits = 0;
  for (int i = 1; i < 10; ++i) {
    const double share = i / 10.0;
    const double x = start.x + share * (point.x - start.x);
    const double y = start.y + share * (point.y - start.y);
    if (x > box.left && x < box.right && y > box.top && y < box.bottom) hits += 1;
  }
  return hits;
}

struct Candidate {
  Box box;
  double distance = 0;
};

// Around the point, from near to far; right of it first.
std::vector<Candidate> candidates(const Label& label, double font_size) {
  double width = 0;
  for (const std::string& line : label.lines) width = std::max(width, text_width(line, font_size));
  const double height = kLabelLine * font_size * static_cast<double>(label.lines.size());
  constexpr Spot kDirections[] = {{1, 0},  {0, -1}, {0, 1},   {-1, 0},
                                  {1, -1}, {1, 1},  {-1, -1}, {-1, 1}};
  constexpr double kDistances[] = {9, 17, 28, 42, 58, 76, 96, 120, 150};
  std::vector<Candidate> found;
  for (const double distance : kDistances) {
    for (const Spot& direction : kDirections) {
      const double slant = direction.x != 0 && direction.y != 0 ? 0.8 : 1;
      const double x = label.point.x + direction.x * (distance * slant + width / 2);
      const double y = label.point.y + direction.y * (distance * slant + height / 2);
      found.push_back({{x - width / 2, y - height / 2, x + width / 2, y + height / 2}, distance});
    }
  }
  return found;
}

struct Placement {
  const std::vector<Label>& labels;
  const std::vector<Obstacle>& obstacles;
  const Box& frame;
  std::vector<PlacedLabel> places;

  double cost(size_t self, const Candidate& candidate) const {
    constexpr double kHidden = 10, kCrossed = 40, kOutside = 100;
    const Spot& point = labels[self].point;
    double sum = candidate.distance + kOutside * outside(candidate.box, frame);
    for (const Obstacle& obstacle : obstacles) {
      const Box& box = obstacle.box;
      sum += obstacle.weight * kHidden * overlap(candidate.box, box);
      const bool is_own = point.x >= box.left && point.x <= box.right && point.y >= box.top &&
                          point.y <= box.bottom;
      if (!is_own) sum += obstacle.weight * kCrossed * hidden_line(candidate.box, point, box);
    }
    for (size_t other = 0; other < places.size(); ++other) {
      if (other == self) continue;
      sum += kHidden * overlap(candidate.box, places[other].box);
      sum += kCrossed * hidden_line(candidate.box, point, places[other].box);
      sum += kCrossed * hidden_line(places[other].box, labels[other].point, candidate.box);
    }
    return sum;
  }
};

// 1, 2, 5, 10, 20, ...: the least that is not below `least`.
double round_step(double least) {
  const double power = std::pow(10, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= least * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

}  // namespace

double text_width(std::string_view text, double font_size) {
  double em = 0;
  for (const char c : text) {
    if ((c & 0xC0) == 0x80) continue;  // a character counts by its first byte
    constexpr std::string_view kNarrow = "iljtfrI.,:;'|!()[]-/ ";
    constexpr std::string_view kWide = "mwMW@%";
    em += kNarrow.find(c) != std::string_view::npos ? 0.4
          : kWide.find(c) != std::string_view::npos ? 0.98
          : c >= 'A' && c <= 'Z'                    ? 0.74
                                                    : 0.63;
  }
  return em * font_size;
}

std::string tick_text(double value) {
  const double size = std::abs(value);
  if (size >= 1e9) return fmt::format("{:.5g}G", value / 1e9);
  if (size >= 1e6) return fmt::format("{:.5g}M", value / 1e6);
  if (size < 1e-12) return "0";
  return fmt::format("{:.5g}", value);
}

AxisScale::AxisScale(const PlotAxis& axis, const std::vector<double>& values, double length)
    : scale_(axis.scale), length_(length) {
  if (!axis.categories.empty()) {
    scale_ = Scale::kLinear;
    low_ = -0.5;
    high_ = static_cast<double>(axis.categories.size()) - 0.5;
    for (size_t i = 0; i < axis.categories.size(); ++i) {
      ticks_.push_back(static_cast<double>(i));
      texts_.push_back(axis.categories[i]);
    }
    return;
  }
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (const double value : values) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  if (axis.reference) {
    low = std::min(low, *axis.reference);
    high = std::max(high, *axis.reference);
  }
  if (low > high) low = high = 1;
  if (scale_ == Scale::kLog) {
    make_log(low, high);
  } else {
    make_linear(low, high);
  }
}

void AxisScale::make_linear(double low, double high) {
  // Equal values, or such as differ by rounding alone, stand in the middle.
  const double least = std::max({std::abs(low), std::abs(high), 1e-9}) * 1e-4;
  if (high - low < least) {
    low -= least;
    high += least;
  }
  // Distances from 0 are read off a bar of the right length, so a near 0 belongs to the axis.
  if (low > 0 && low < 0.35 * high) low = 0;
  const double pad = 0.06 * (high - low);
  low_ = low == 0 ? 0 : low - pad;
  high_ = high + pad;
  const double step = round_step((high_ - low_) / std::clamp(length_ / 60, 2.0, 8.0));
  for (double tick = std::ceil(low_ / step - 1e-9); tick * step <= high_ + 1e-9 * step; ++tick) {
    ticks_.push_back(tick * step);
    texts_.push_back(tick_text(tick * step));
  }
}

void AxisScale::make_log(double low, double high) {
  low_ = std::log10(low);
  high_ = std::log10(high);
  const double pad = std::max(0.06 * (high_ - low_), 0.03);
  low_ -= pad;
  high_ += pad;
  const double decades = high_ - low_;
  // Digits of a decade that are written: fewer the more decades there are.
  std::span<const double> digits;
  static constexpr double kMany[] = {1,   1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2,
                                     2.5, 3,   3.5, 4,   5,   6,   7,   8,   9};
  static constexpr double kAll[] = {1, 1.5, 2, 2.5, 3, 4, 5, 6, 8}, kSome[] = {1, 2, 5},
                          kOne[] = {1};
  if (decades < 0.5) {
    digits = kMany;
  } else if (decades < 1.05) {
    digits = kAll;
  } else if (decades < 3.5) {
    digits = kSome;
  } else {
    digits = kOne;
  }
  double last = -std::numeric_limits<double>::infinity();
  for (double power = std::floor(low_); power <= high_; ++power) {
    for (const double digit : digits) {
      const double value = digit * std::pow(10, power);
      const double place = std::log10(value);
      if (place < low_ || place > high_) continue;
      ticks_.push_back(value);
      const double room = length_ * (place - last) / decades;
      const std::string text = tick_text(value);
      texts_.push_back(room > 12 + text_width(text, 11) ? text : "");
      if (!texts_.back().empty()) last = place;
    }
  }
}

double AxisScale::at(double value) const {
  const double place = scale_ == Scale::kLog ? std::log10(value) : value;
  return length_ * (place - low_) / (high_ - low_);
}

void join_labels(std::vector<Label>& labels) {
  constexpr double kSame = 6;  // pixels: markers that hide each other for the most part
  if (labels.size() > kMostLabels) return;
  std::vector<Label> joined;
  for (Label& label : labels) {
    const auto near = std::find_if(joined.begin(), joined.end(), [&](const Label& other) {
      return std::abs(other.point.x - label.point.x) < kSame &&
             std::abs(other.point.y - label.point.y) < kSame;
    });
    if (near == joined.end()) {
      joined.push_back(std::move(label));
    } else {
      near->lines.insert(near->lines.end(), label.lines.begin(), label.lines.end());
    }
  }
  labels = std::move(joined);
}

std::vector<PlacedLabel> place_labels(const std::vector<Label>& labels,
                                      const std::vector<Obstacle>& obstacles, const Box& frame,
                                      double font_size) {
  const bool is_searched =
      labels.size() <= kMostLabels && labels.size() * obstacles.size() <= kMostPairs;
  std::vector<std::vector<Candidate>> all;
  Placement placement{labels, obstacles, frame, {}};
  for (const Label& label : labels) {
    std::vector<Candidate> found = candidates(label, font_size);
    placement.places.push_back({found.front().box});
    if (is_searched) all.push_back(std::move(found));
  }
  if (!is_searched) return placement.places;
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < labels.size(); ++i) {
      double best = std::numeric_limits<double>::infinity();
      for (const Candidate& candidate : all[i]) {
        const double cost = placement.cost(i, candidate);
        if (cost >= best) continue;
        best = cost;
        placement.places[i] = {candidate.box, candidate.distance > 20};
      }
    }
  }
  return placement.places;
}

}  // namespace tessera
