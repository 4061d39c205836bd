#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "kernels/family.h"

namespace tessera::attention_product {

// What the products are added to: nothing, c, or c[r, :] * factor[r].
enum class Start : int32_t { kZero, kAdd, kScale };

// The two small products of attention: a block of query rows with a page of transposed keys, and
// their probabilities with a page of values.
//   c[r,j] = start + sum_k a[r,k] b[k,j]     0 <= k < depth, 0 <= j < cols
// a: [rows, depth], b: [depth, cols], c: [rows, cols], row-major, rows *_stride numbers apart,
// caller-owned, c apart from both. b holds b_dtype: kF32, kBF16, or kI8, where a number stands for
// itself times b_row_scale[k] or, with Start::kZero, b_col_scale[j], the one not null. factor:
// [rows], read for kScale only. The unit of Exec is a row; the value of a row does not depend on
// the rows computed with it. Sums in f32 or wider, one fused multiply-add after another from k = 0.
// Max error against ref: (depth + 2) eps (|start| + sum_k |a b|) per element. Narrow numbers are
// widened for every 6 rows again; from 7 rows on, `rows_to_f32` before is faster.
struct Args {
  const float* a = nullptr;
  int64_t a_stride = 0;
  int64_t depth = 0;
  const void* b = nullptr;
  DType b_dtype = DType::kF32;
  const float* b_row_scale = nullptr;
  const float* b_col_scale = nullptr;
  int64_t b_stride = 0;
  int64_t cols = 0;
  Start start = Start::kZero;
  const float* factor = nullptr;
  float* c = nullptr;
  int64_t c_stride = 0;
  // What a later product reads, to be fetched into the cache meanwhile, so many bytes a k; or null.
  const void* next = nullptr;
  int64_t next_bytes = 0;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/attention_product/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::attention_product
