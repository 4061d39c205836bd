#pragma once

#include <cstdint>
#include <span>

#include "tessera/model.h"

namespace tessera {

// Whether the tokens of a prompt are pooled with those of the text.
enum class PromptTokens { kPooled, kLeftOut };

// The rows of a sequence that are pooled: all but the first `skipped`, of which at least the last
// row stays.
struct PooledRows {
  const float* hidden = nullptr;  // [rows, size]
  int64_t rows = 0;
  int64_t size = 0;
  int64_t skipped = 0;
};

// One vector of `size` numbers for each pooling, one after another into target. With n rows left,
// x[i] the i-th of them, from 0, and s of them skipped:
//   kFirstToken x[0], kLastToken x[n-1], kMax max_i x[i], kMean sum_i x[i] / n,
//   kMeanSqrtLength sum_i x[i] / sqrt(n), kWeightedMean sum_i (s+i+1) x[i] / sum_i (s+i+1)
// Sums are f32, in the order of the rows.
void pool(const PooledRows& input, std::span<const Pooling> poolings, float* target);

// x / max(|x|, 1e-12), with the length in f64.
void normalise(std::span<float> x);

}  // namespace tessera
