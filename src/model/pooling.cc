#include "model/pooling.h"

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

void pool_one(const PooledRows& in, Pooling pooling, float* y) {
  const int64_t first = std::min(in.skipped, in.rows - 1);
  const float* begin = in.hidden + first * in.size;
  const bool weighted = pooling == Pooling::kWeightedMean;
  const bool sums = weighted || pooling == Pooling::kMean || pooling == Pooling::kMeanSqrtLength;
  const float* copied =
      pooling == Pooling::kLastToken ? in.hidden + (in.rows - 1) * in.size : begin;
  std::copy_n(copied, in.size, y);
  if (!sums && pooling != Pooling::kMax) return;
  const auto weight = [&](int64_t row) { return weighted ? static_cast<float>(row + 1) : 1.0f; };
  for (int64_t c = 0; weighted && c < in.size; ++c) y[c] *= weight(first);
  for (int64_t r = first + 1; r < in.rows; ++r) {
    const float* x = in.hidden + r * in.size;
    const float w = weight(r);
    if (weighted) {
      for (int64_t c = 0; c < in.size; ++c) y[c] += w * x[c];
    } else {
      for (int64_t c = 0; c < in.size; ++c) y[c] = sums ? y[c] + x[c] : std::max(y[c], x[c]);
    }
  }
  if (!sums) return;
  const double count = static_cast<double>(in.rows - first);
  // The sum of first + 1 to rows.
  const double weights = count * static_cast<double>(first + 1 + in.rows) / 2;
  const double divisor = weighted                              ? weights
                         : pooling == Pooling::kMeanSqrtLength ? std::sqrt(count)
                                                               : count;
  const float factor = static_cast<float>(1 / divisor);
  for (int64_t c = 0; c < in.size; ++c) y[c] *= factor;
}

}  // namespace

void pool(const PooledRows& input, std::span<const Pooling> poolings, float* target) {
  for (const Pooling pooling : poolings) {
    pool_one(input, pooling, target);
    target += input.size;
  }
}

void normalise(std::span<float> x) {
  double square = 0;
  for (const float value : x) square += static_cast<double>(value) * value;
  const double length = std::max(std::sqrt(square), 1e-12);
  for (float& value : x) value = static_cast<float>(value / length);
}

}  // namespace tessera
