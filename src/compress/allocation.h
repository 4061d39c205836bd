#pragma once

#include <cstdint>
#include <vector>

namespace tessera {

// How much a matrix's outputs suffer by how much of it is pruned.
struct ErrorCurve {
  int64_t weights = 0;
  std::vector<double> shares;  // ascending, from 0 to 1
  std::vector<double> errors;  // that add up over matrices; of the same length
};

// The share of each matrix that makes the sum of the errors least while `share` of all weights
// goes: on the lower convex hulls of the curves, the steps of the least error a weight come first;
// of equal ones those of earlier matrices. Between measured points errors are taken as linear.
std::vector<double> allocate(const std::vector<ErrorCurve>& curves, double share);

}  // namespace tessera
