#pragma once

#include <cstdint>

#include "kernels/family.h"

namespace tessera::line_sums {

inline constexpr int64_t kLine = 16;

// What products with single inputs or outputs of tiles of 16 weights are made of: each line of 16
// factors times the same 16 rows, added to a line of its own.
//   sums[s(i), :] += sum_j lines[l(i), j] fixed[j, :]     0 <= j < 16
// lines, sums: [any][16], sums apart from the others; fixed: [16][16], rows fixed_stride floats
// apart. l, s: of each i where its line stands, or null: i itself; those of sums differ.
// The unit of Exec is an i. Sums in f32 or wider; max error against ref: 10 eps (|sums| + sum_j
// |lines fixed|) per element.
struct Args {
  const float* fixed = nullptr;
  int64_t fixed_stride = 0;
  const float* lines = nullptr;
  const int32_t* line_of = nullptr;
  float* sums = nullptr;
  const int32_t* sum_of = nullptr;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/line_sums/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::line_sums
