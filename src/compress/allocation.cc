#include "compress/allocation.h"

#include <algorithm>
#include <tuple>

namespace tessera {
namespace {

struct Step {
  double slope = 0;  // error a weight
  size_t matrix = 0;
  double from = 0, to = 0;  // shares
};

// The points of the lower convex hull.
std::vector<size_t> lower_hull(const ErrorCurve& curve) {
  std::vector<size_t> hull;
  for (size_t i = 0; i < curve.shares.size(); ++i) {
    while (hull.size() >= 2) {
      const size_t a = hull[hull.size() - 2], b = hull.back();
      const double straight = (curve.errors[i] - curve.errors[a]) *
                              (curve.shares[b] - curve.shares[a]) /
                              (curve.shares[i] - curve.shares[a]);
      if (curve.errors[b] - curve.errors[a] < straight) break;
      hull.pop_back();
    }
    hull.push_back(i);
  }
  return hull;
}

}  // namespace

std::vector<double> allocate(const std::vector<ErrorCurve>& curves, double share) {
  std::vector<Step> steps;
  double left = 0;
  for (size_t m = 0; m < curves.size(); ++m) {
    const ErrorCurve& curve = curves[m];
    const auto weights = static_cast<double>(curve.weights);
    left += share * weights;
    const std::vector<size_t> hull = lower_hull(curve);
    for (size_t i = 1; i < hull.size(); ++i) {
      const double width = curve.shares[hull[i]] - curve.shares[hull[i - 1]];
      const double rise = curve.errors[hull[i]] - curve.errors[hull[i - 1]];
      steps.push_back(
          {rise / (width * weights), m, curve.shares[hull[i - 1]], curve.shares[hull[i]]});
    }
  }
  std::sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) {
    return std::tie(a.slope, a.matrix, a.from) < std::tie(b.slope, b.matrix, b.from);
  });
  std::vector<double> shares(curves.size());
  for (const Step& step : steps) {
    const auto weights = static_cast<double>(curves[step.matrix].weights);
    const double taken = std::min(left, (step.to - step.from) * weights);
    if (taken <= 0) break;
    shares[step.matrix] = step.from + taken / weights;
    left -= taken;
  }
  return shares;
}

}  // namespace tessera
