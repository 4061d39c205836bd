#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/family.h"

// The most arithmetic that a core can do: independent chains of multiply-additions that stay in
// registers. What is measured with it is the roof that every product is held against.
namespace tessera::peak {

// Products and sums of one step, whatever the width of an instruction: 24 chains of 4, 8, 16 or 32
// instructions.
inline constexpr int64_t kProductsPerStep = 24 * 4 * 64;

// The sum of steps * kProductsPerStep products value * value, which grows in every chain alike.
//   kF32: f32 values and sums; kBF16: bf16 pairs, f32 sums; kI8: unsigned times signed bytes in
//   fours, 32-bit sums.
// The unit of Exec is a step. Exact while a chain's sum is: below 2^24 in f32, 2^31 for bytes.
struct Args {
  DType dtype = DType::kF32;
  float value = 1;  // an integer from 0 to 11
  double* sum = nullptr;
};

#define TESSERA_KERNEL(row, isa, refuse) void row(const Args& args, Exec exec) noexcept;
#include "kernels/peak/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::peak
