#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace tessera {

// Prepared layout of a dense weight: panels of 64 outputs, each panel one contiguous stream over
// the inputs.
//   f32:  value(input k, output n) = data[n/64][k][n%64], inputs padded to a multiple of 16
//   bf16: value(input k, output n) = data[n/64][k/2][n%64][k%2], inputs padded to a multiple of 32
// Padding is zero. These are oneDNN's BA16a64b and BA16a64b2a, so its kernels and ours read the
// same bytes.
constexpr int64_t kPanelOutputs = 64;

constexpr int64_t panel_count(int64_t outputs) {
  return (outputs + kPanelOutputs - 1) / kPanelOutputs;
}
constexpr int64_t panel_inputs(DType dtype, int64_t inputs) {
  const int64_t block = dtype == DType::kF32 ? 16 : 32;
  return (inputs + block - 1) / block * block;
}
constexpr int64_t panel_elements(DType dtype, int64_t inputs) {
  return panel_inputs(dtype, inputs) * kPanelOutputs;
}

}  // namespace tessera
