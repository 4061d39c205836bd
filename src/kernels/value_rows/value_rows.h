#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/family.h"

namespace tessera::value_rows {

// How many rows a page holds.
constexpr int32_t kPageRows = 64;

// What the rows hold: kInt4, of two's complement, in (cols + 1) / 2 bytes, whose lower halves are
// the first (cols + 1) / 2 numbers and whose upper halves are the others.
enum class Numbers : int32_t { kF32, kBF16, kInt8, kInt4 };

// The sums of the few rows that a query reads, of its probabilities:
//   y[q,c] = sum_i w[q, place[q,i]] scale[place[q,i]] x[place[q,i], c]
//     0 <= i < count[q], 0 <= c < cols
// in the order of i, where a weight of 0 leaves its row out, whatever it holds. The row `place` is
// that of place % kPageRows in pages[place / kPageRows], rows_at bytes into the page; the scales of
// integers, a float a row, scales_at bytes into it. w, place and y: a query *_stride elements
// after another, caller-owned. The unit of Exec is a query. Sums in f32, one fused multiply-add
// after another. Max error against ref: (count + 2) eps sum_i |w scale x| per element.
struct Args {
  const float* weights = nullptr;
  int64_t weights_stride = 0;
  const int32_t* places = nullptr;
  int64_t places_stride = 0;
  const int32_t* counts = nullptr;
  const std::byte* const* pages = nullptr;
  int64_t rows_at = 0;
  int64_t scales_at = 0;
  Numbers numbers = Numbers::kF32;
  int64_t cols = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/value_rows/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::value_rows
