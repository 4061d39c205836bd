#include "evaluate/logistic.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>

namespace tessera::evaluation {
namespace {

using Vector = std::vector<double>;

constexpr int kMostIterations = 2000;
constexpr size_t kMemory = 10;  // pairs that approximate the curvature
constexpr double kSmallestGradient = 1e-6;

double dot(const Vector& a, const Vector& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// target += scale * x
void add(double scale, const Vector& x, Vector* target) {
  for (size_t i = 0; i < x.size(); ++i) (*target)[i] += scale * x[i];
}

double largest(const Vector& x) {
  double most = 0;
  for (const double value : x) most = std::max(most, std::abs(value));
  return most;
}

// log(1 + exp(x)) without overflow.
double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

void score(const double* weights, size_t outputs, std::span<const float> row, double* scores) {
  const size_t width = row.size();
  for (size_t k = 0; k < outputs; ++k) {
    const double* const w = weights + k * (width + 1);
    // Four sums at a time, since their order is ours.
    double sums[4] = {w[width], 0, 0, 0};
    size_t i = 0;
    for (; i + 4 <= width; i += 4) {
      for (size_t j = 0; j < 4; ++j) sums[j] += w[i + j] * row[i + j];
    }
    for (; i < width; ++i) sums[0] += w[i] * row[i];
    scores[k] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
}

// Scores become derivatives of the loss by them; the loss is returned.
double loss_of(std::vector<double>& scores, int32_t expected) {
  if (scores.size() == 1) {
    const double sign = expected == 1 ? 1 : -1;
    const double loss = softplus(-sign * scores[0]);
    scores[0] = -sign / (1 + std::exp(sign * scores[0]));
    return loss;
  }
  const double most = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double value : scores) sum += std::exp(value - most);
  const auto right = static_cast<size_t>(expected);
  const double loss = std::log(sum) + most - scores[right];
  for (double& value : scores) value = std::exp(value - most) / sum;
  scores[right] -= 1;
  return loss;
}

// The objective divided by strength * rows, so that its size does not depend on them.
class Objective {
 public:
  Objective(const LabelledRows& rows, double strength, size_t outputs)
      : rows_(rows), outputs_(outputs) {
    scale_ = 1 / static_cast<double>(rows.expected.size());
    decay_ = scale_ / strength;
  }
  size_t size() const { return outputs_ * (rows_.width + 1); }

  double at(const Vector& weights, Vector* gradient) const {
    gradient->assign(size(), 0);
    std::vector<double> scores(outputs_);
    const size_t width = rows_.width;
    double loss = 0;
    for (size_t r = 0; r < rows_.expected.size(); ++r) {
      const std::span<const float> row = rows_.values.subspan(r * width, width);
      score(weights.data(), outputs_, row, scores.data());
      loss += loss_of(scores, rows_.expected[r]);
      for (size_t k = 0; k < outputs_; ++k) {
        double* const g = gradient->data() + k * (width + 1);
        for (size_t i = 0; i < width; ++i) g[i] += scores[k] * row[i];
        g[width] += scores[k];
      }
    }
    double squares = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      (*gradient)[i] *= scale_;
      if (i % (width + 1) == width) continue;
      (*gradient)[i] += decay_ * weights[i];
      squares += weights[i] * weights[i];
    }
    return scale_ * loss + decay_ * squares / 2;
  }

 private:
  const LabelledRows& rows_;
  size_t outputs_;
  double scale_, decay_;
};

struct Step {
  Vector moved, turned;  // change of the weights and of the gradient
};

// The quasi-Newton direction by the two loops over what is remembered.
Vector direction_of(const Vector& gradient, const std::deque<Step>& memory) {
  Vector direction(gradient.size());
  add(-1, gradient, &direction);
  Vector shares;
  for (auto step = memory.rbegin(); step != memory.rend(); ++step) {
    const double share = dot(step->moved, direction) / dot(step->moved, step->turned);
    shares.push_back(share);
    add(-share, step->turned, &direction);
  }
  if (!memory.empty()) {
    const Step& last = memory.back();
    const double scale = dot(last.moved, last.turned) / dot(last.turned, last.turned);
    for (double& value : direction) value *= scale;
  }
  for (const Step& step : memory) {
    const double share = dot(step.turned, direction) / dot(step.moved, step.turned);
    add(shares.back() - share, step.moved, &direction);
    shares.pop_back();
  }
  return direction;
}

struct Point {
  Vector weights, gradient;
  double value = 0;
};

// A point along the direction that meets the weak Wolfe conditions, by bisection (Lewis & Overton
// 2013); false where rounding leaves none.
bool search(const Objective& objective, const Point& from, const Vector& direction, Point* to) {
  constexpr double kDecrease = 1e-4, kCurvature = 0.9;
  constexpr int kMostTrials = 60;
  const double slope = dot(from.gradient, direction);
  double low = 0, high = INFINITY, length = 1;
  for (int trial = 0; trial < kMostTrials; ++trial) {
    to->weights = from.weights;
    add(length, direction, &to->weights);
    to->value = objective.at(to->weights, &to->gradient);
    if (!(to->value <= from.value + kDecrease * length * slope)) {
      high = length;
    } else if (dot(to->gradient, direction) < kCurvature * slope) {
      low = length;
    } else {
      return true;
    }
    length = std::isinf(high) ? 2 * length : (low + high) / 2;
  }
  return false;
}

Status check(const LabelledRows& rows, double strength) {
  std::vector<size_t> counts(rows.labels);
  for (const int32_t label : rows.expected) ++counts[static_cast<size_t>(label)];
  const auto present = std::count_if(counts.begin(), counts.end(), [](size_t n) { return n > 0; });
  if (rows.labels < 2 || static_cast<size_t>(present) < rows.labels) {
    return invalid_input(fmt::format("expected examples of {} labels to train on, found {} of them",
                                     std::max<size_t>(2, rows.labels), present));
  }
  if (strength > 0 && std::isfinite(strength)) return {};
  return invalid_input(fmt::format("expected a strength of the probe above 0, found {}", strength));
}

}  // namespace

Result<LogisticRegression> LogisticRegression::fit(const LabelledRows& rows, double strength,
                                                   const std::function<Status()>& on_step) {
  TESSERA_RETURN_IF_ERROR(check(rows, strength));
  LogisticRegression model;
  model.width_ = rows.width;
  model.outputs_ = rows.labels == 2 ? 1 : rows.labels;
  const Objective objective(rows, strength, model.outputs_);
  Point point{Vector(objective.size()), {}, 0};
  point.value = objective.at(point.weights, &point.gradient);
  std::deque<Step> memory;
  for (int i = 0; i < kMostIterations && largest(point.gradient) > kSmallestGradient; ++i) {
    if (on_step) TESSERA_RETURN_IF_ERROR(on_step());
    Point next;
    if (!search(objective, point, direction_of(point.gradient, memory), &next)) {
      if (memory.empty()) break;
      memory.clear();
      continue;
    }
    Step step{next.weights, next.gradient};
    add(-1, point.weights, &step.moved);
    add(-1, point.gradient, &step.turned);
    if (dot(step.moved, step.turned) > 0) memory.push_back(std::move(step));
    if (memory.size() > kMemory) memory.pop_front();
    point = std::move(next);
  }
  model.weights_ = std::move(point.weights);
  return model;
}

std::vector<double> LogisticRegression::scores(std::span<const float> row) const {
  std::vector<double> scores(outputs_);
  score(weights_.data(), outputs_, row, scores.data());
  return scores;
}

int32_t LogisticRegression::predict(std::span<const float> row) const {
  const std::vector<double> found = scores(row);
  if (found.size() == 1) return found[0] > 0 ? 1 : 0;
  return static_cast<int32_t>(std::max_element(found.begin(), found.end()) - found.begin());
}

}  // namespace tessera::evaluation
