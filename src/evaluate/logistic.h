#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/status.h"

namespace tessera::evaluation {

// Examples in rows, their labels 0 to labels - 1. The memory belongs to the caller.
struct LabelledRows {
  std::span<const float> values;      // [rows, width]
  std::span<const int32_t> expected;  // [rows]
  size_t width = 0;
  size_t labels = 2;
};

// L2-regularised logistic regression, the minimum over w and b of
//   strength * sum_i loss(x_i, y_i) + |w|^2 / 2
// with the logistic loss for two labels and the multinomial one for more (scikit-learn's
// LogisticRegression with C = strength); intercepts b are not regularised.
class LogisticRegression {
 public:
  // By L-BFGS in f64 (Liu & Nocedal 1989) until the gradient of the mean loss is below 1e-6 at its
  // largest; deterministic. on_step is called between iterations. kInvalidInput where not every
  // label occurs.
  static Result<LogisticRegression> fit(const LabelledRows& rows, double strength,
                                        const std::function<Status()>& on_step);

  int32_t predict(std::span<const float> row) const;  // the first of equals
  // [outputs, width + 1], the intercept last; one output for two labels.
  std::span<const double> weights() const { return weights_; }

 private:
  std::vector<double> scores(std::span<const float> row) const;
  size_t width_ = 0, outputs_ = 1;
  std::vector<double> weights_;
};

}  // namespace tessera::evaluation
