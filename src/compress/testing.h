#pragma once

#include <algorithm>
#include <cmath>
#include <random>

#include "compress/mask.h"
#include "compress/statistics.h"

// What tests of the compression share.
namespace tessera::testing {

inline Weight random_weight(int64_t outputs, int64_t inputs, uint32_t seed) {
  Weight weight{outputs, inputs, std::vector<float>(static_cast<size_t>(outputs * inputs))};
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  for (float& value : weight.values) value = normal(generator);
  return weight;
}

// Statistics of inputs that depend on each other, with means that are not 0.
inline InputStatistics random_statistics(int64_t inputs, int64_t rows, uint32_t seed) {
  const Weight mix = random_weight(inputs, inputs, seed);
  std::mt19937 generator(seed + 1);
  std::normal_distribution<float> normal;
  InputStatistics statistics{inputs, rows, std::vector<double>(static_cast<size_t>(inputs)),
                             {},     {},   {}};
  std::vector<double> products(static_cast<size_t>(inputs * inputs));
  statistics.sums.resize(static_cast<size_t>(inputs));
  statistics.largest.resize(static_cast<size_t>(inputs));
  std::vector<double> source(static_cast<size_t>(inputs)), x(source.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (double& value : source) value = normal(generator);
    for (int64_t i = 0; i < inputs; ++i) {
      x[static_cast<size_t>(i)] = 0.5 + 0.1 * static_cast<double>(i % 7);
      for (int64_t j = 0; j < inputs; ++j)
        x[static_cast<size_t>(i)] += mix.row(i)[j] * source[static_cast<size_t>(j)];
    }
    for (size_t i = 0; i < x.size(); ++i) {
      statistics.sums[i] += x[i];
      statistics.largest[i] = std::max(statistics.largest[i], static_cast<float>(std::abs(x[i])));
      for (size_t j = 0; j < x.size(); ++j) products[i * x.size() + j] += x[i] * x[j];
    }
  }
  statistics.products.assign(products.begin(), products.end());
  return statistics;
}

// tr(D H D^T)
inline double loss(const Weight& whole, const Weight& pruned, const Hessian& hessian) {
  double total = 0;
  for (int64_t o = 0; o < whole.outputs; ++o) {
    for (int64_t i = 0; i < whole.inputs; ++i) {
      for (int64_t j = 0; j < whole.inputs; ++j) {
        total += (whole.row(o)[i] - pruned.row(o)[i]) * (whole.row(o)[j] - pruned.row(o)[j]) *
                 hessian.values[static_cast<size_t>(i * whole.inputs + j)];
      }
    }
  }
  return total;
}

}  // namespace tessera::testing
