#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "base/team.h"
#include "compress/mask.h"

namespace tessera {

// What calibration texts say of the inputs x of a linear map. Everything is summed of x - origin,
// an origin near the mean, as f32 would lose the variance of inputs that hardly vary.
struct InputStatistics {
  int64_t inputs = 0;
  int64_t rows = 0;             // tokens
  std::vector<double> origin;   // [inputs]
  std::vector<float> products;  // [inputs, inputs]: sum over the rows of the outer products
  std::vector<double> sums;     // [inputs]
  std::vector<float> largest;   // [inputs]: of |x|

  double mean(int64_t input) const { return origin[static_cast<size_t>(input)] + offset(input); }
  // How far the mean lies from the origin.
  double offset(int64_t input) const {
    return sums[static_cast<size_t>(input)] / static_cast<double>(rows);
  }
  double covariance(int64_t a, int64_t b) const {
    return products[static_cast<size_t>(a * inputs + b)] / static_cast<double>(rows) -
           offset(a) * offset(b);
  }
  double moment(int64_t a, int64_t b) const { return covariance(a, b) + mean(a) * mean(b); }
  // Root of the mean square of each input.
  std::vector<double> norms() const;
};

// Whether a bias can take up what a pruned weight adds on average: the inputs are then measured
// from their means.
enum class Centre { kNo, kYes };

// H = E[(x - mean)(x - mean)^T] + damping, f64, [inputs, inputs]; the damping of a hundredth of the
// mean diagonal, as in SparseGPT (Frantar & Alistarh 2023), and 1e-5 of the inputs' mean square
// keep it positive definite.
struct Hessian {
  int64_t inputs = 0;
  Centre centre = Centre::kNo;
  std::vector<double> values;
  std::vector<double> inverse;  // empty until it is needed
  std::vector<double> root;     // empty until it is needed: R of H^-1 = R R^T, lower triangular
};
Hessian make_hessian(const InputStatistics& statistics, Centre centre);
Status not_definite();  // where H is not positive definite

// What is known of the inputs of one map, which its matrices share: statistics, null without a
// calibration text, and Hessians of them, made when they are needed and kept.
class MapInputs {
 public:
  explicit MapInputs(const InputStatistics* statistics) : statistics_(statistics) {}
  const InputStatistics* statistics() const { return statistics_; }
  Hessian& hessian(Centre centre);

 private:
  const InputStatistics* statistics_;
  Hessian centred_, plain_;
};

// |D x - shift| / |W x| with D = W - W', each the root of the mean square over the calibration
// rows; shift: what the bias took up, [outputs], or empty. 0 / 0 is 0.
Result<double> output_error(const Weight& whole, const Weight& pruned,
                            const InputStatistics& statistics, const std::vector<double>& shift,
                            Team& team);

// What keeps the mean of the outputs: (W - W') mean(x).
std::vector<double> bias_shift(const Weight& whole, const Weight& pruned,
                               const InputStatistics& statistics);

}  // namespace tessera
