#include "compress/statistics.h"

#include <algorithm>
#include <cmath>

#include "linear/linear.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

constexpr double kDamping = 0.01;
// The share of the mean square that is added for inputs that do not vary.
constexpr double kFloor = 1e-5;

// tr(W E[x x^T] W^T), E[x x^T] being that of x - origin and products of mean and origin.
Result<double> mean_square(const Weight& weight, const InputStatistics& statistics, Team& team) {
  const int64_t n = weight.inputs;
  TESSERA_ASSIGN_OR_RETURN(const auto products,
                           prepare_dense({{statistics.products.data(), DType::kF32, n, n}}, nullptr,
                                         Precision::kF32, team));
  std::vector<float> image(weight.values.size());
  team.run([&](Team::Member& member) {
    products->apply({.x = weight.values.data(),
                     .x_stride = n,
                     .rows = weight.outputs,
                     .y = image.data(),
                     .y_stride = n},
                    member);
  });
  double sum = 0, rest = 0;
  for (int64_t o = 0; o < weight.outputs; ++o) {
    double at_origin = 0, offset = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double value = weight.row(o)[i];
      sum += image[at(o * n + i)] * value;
      at_origin += value * statistics.origin[at(i)];
      offset += value * statistics.offset(i);
    }
    rest += at_origin * (at_origin + 2 * offset);
  }
  return sum / static_cast<double>(statistics.rows) + rest;
}

}  // namespace

std::vector<double> InputStatistics::norms() const {
  std::vector<double> norms(at(inputs));
  for (int64_t i = 0; i < inputs; ++i) {
    norms[at(i)] = std::sqrt(std::max(0.0, moment(i, i)));
  }
  return norms;
}

Hessian make_hessian(const InputStatistics& statistics, Centre centre) {
  const int64_t n = statistics.inputs;
  Hessian hessian{n, centre, std::vector<double>(statistics.products.size()), {}, {}};
  double trace = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      hessian.values[at(i * n + j)] = hessian.values[at(j * n + i)] =
          centre == Centre::kYes ? statistics.covariance(i, j) : statistics.moment(i, j);
    }
    trace += std::max(0.0, hessian.values[at(i * n + i)]);
    squares += statistics.moment(i, i);
  }
  double damping = (kDamping * trace + kFloor * squares) / static_cast<double>(n);
  if (damping == 0) damping = 1;  // every input is 0
  for (int64_t i = 0; i < n; ++i) hessian.values[at(i * n + i)] += damping;
  return hessian;
}

Status not_definite() {
  return invalid_input(
      "expected calibration activations that are finite and not all zero, found others");
}

Hessian& MapInputs::hessian(Centre centre) {
  Hessian& hessian = centre == Centre::kYes ? centred_ : plain_;
  if (hessian.values.empty()) hessian = make_hessian(*statistics_, centre);
  return hessian;
}

Result<double> output_error(const Weight& whole, const Weight& pruned,
                            const InputStatistics& statistics, const std::vector<double>& shift,
                            Team& team) {
  Weight difference = whole;
  for (size_t i = 0; i < difference.values.size(); ++i) difference.values[i] -= pruned.values[i];
  TESSERA_ASSIGN_OR_RETURN(double lost, mean_square(difference, statistics, team));
  TESSERA_ASSIGN_OR_RETURN(const double total, mean_square(whole, statistics, team));
  if (!shift.empty()) {
    const std::vector<double> means = bias_shift(whole, pruned, statistics);
    for (size_t o = 0; o < shift.size(); ++o) lost += shift[o] * (shift[o] - 2 * means[o]);
  }
  return lost > 0 ? std::sqrt(lost / total) : 0.0;
}

std::vector<double> bias_shift(const Weight& whole, const Weight& pruned,
                               const InputStatistics& statistics) {
  std::vector<double> shift(at(whole.outputs));
  for (int64_t o = 0; o < whole.outputs; ++o) {
    for (int64_t i = 0; i < whole.inputs; ++i) {
      const double lost = static_cast<double>(whole.row(o)[i]) - pruned.row(o)[i];
      shift[at(o)] += lost * statistics.mean(i);
    }
  }
  return shift;
}

}  // namespace tessera
