#pragma once

#include <cstdint>

#include "kernels/family.h"

namespace tessera::rotary {

// Rotary position embedding in the half-split form of GPT-NeoX and Llama (Su et al. 2021), in
// place:
//   for j < rotated/2, with c = cosines[p,j], s = sines[p,j], p = positions[r]:
//   x[r,h,j]             <- x[r,h,j] c - x[r,h,j + rotated/2] s
//   x[r,h,j + rotated/2] <- x[r,h,j + rotated/2] c + x[r,h,j] s
// Elements from `rotated` to head_size stay. x: rows x_stride apart, each heads * head_size floats;
// caller-owned. cosines, sines: [positions known, rotated / 2]; every position is within. The unit
// of Exec is a row. Max error against ref: 2 eps (|a| + |b|) of the pair.
struct Args {
  float* x = nullptr;
  int64_t x_stride = 0;
  int32_t heads = 0;
  int32_t head_size = 0;
  int32_t rotated = 0;  // even
  const int32_t* positions = nullptr;
  const float* cosines = nullptr;
  const float* sines = nullptr;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/rotary/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::rotary
