#pragma once

#include <cstdint>

#include "kernels/family.h"

namespace tessera::topk {

// The places of the k largest of a row's n values, in ascending order:
//   indices[m,0] < ... < indices[m,k-1]
// Of equal values the ones that come first are taken; -0 equals +0; NaN ranks below -inf, so that
// it is only taken where fewer than k values are numbers. The result is exact: all rows of the
// family give the same.
// x: [rows, n]; indices: [rows, k]; rows *_stride elements apart; 0 <= k <= n < 2^31. The unit of
// Exec is a row. scratch: [scratch_size(n)], of this call alone.
// Source: the top-k engine of SpAtten (https://arxiv.org/abs/2012.09852, section IV.B), with a
// sample's bracket in place of a single pivot, and at most 32 passes over a row where that misses.
struct Args {
  const float* x = nullptr;
  int64_t x_stride = 0;
  int64_t n = 0;
  int64_t k = 0;
  int32_t* indices = nullptr;
  int64_t indices_stride = 0;
  int32_t* scratch = nullptr;
};

constexpr int64_t kPadding = 16;  // the widest vector of any row of the family

constexpr int64_t padded(int64_t n) { return (n + kPadding - 1) / kPadding * kPadding; }
constexpr int64_t scratch_size(int64_t n) { return 2 * (padded(n) + kPadding); }

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/topk/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::topk
