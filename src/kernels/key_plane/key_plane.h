#pragma once

#include <cstdint>

#include "kernels/family.h"

namespace tessera::key_plane {

// How many columns a panel has: the tokens of a page.
constexpr int64_t kCols = 64;

// What the panel's integers are, and where they stand. kInt8: [depth][kCols] bytes. kInt4, of two's
// complement, and kUint4: [(depth + 1) / 2][kCols] bytes, whose lower halves are the first
// (depth + 1) / 2 rows of the panel and whose upper halves are the others.
enum class Integers : int32_t { kInt8, kInt4, kUint4 };

enum class Start : int32_t { kZero, kAdd };

// The scores of query rows with one plane of bits of a page of integer keys:
//   c[r,j] = start + scale[j] (factor sum_k a[r,k] b[k,j] + offset[r])     0 <= j < kCols
// with start = 0 or c[r,j]. A key of two planes is scored by the upper one, whose factor weighs its
// bits and whose offset stands for the lower one, and where that is read by another call that adds
// it and takes the offset away.
// a: [rows, depth] and c: [rows, kCols], rows *_stride floats apart; offset: [rows], scale:
// [kCols]; caller-owned. The unit of Exec is a row; the value of a row does not depend on the rows
// computed with it. Max error against ref: (depth + 4) eps (|start| + scale (factor sum_k |a b| +
// |offset|)) per element.
// Source: progressive quantization of SpAtten (https://arxiv.org/abs/2012.09852, section III.D).
struct Args {
  const float* a = nullptr;
  int64_t a_stride = 0;
  int64_t depth = 0;
  Integers integers = Integers::kInt8;
  const void* b = nullptr;
  const float* scale = nullptr;
  float factor = 1;
  const float* offset = nullptr;
  Start start = Start::kZero;
  float* c = nullptr;
  int64_t c_stride = 0;
  // What a later call reads, to be fetched into the cache meanwhile: as many bytes as b has; or
  // null.
  const void* next = nullptr;
};

#define TESSERA_KERNEL(row, isa) void row(const Args& args, Exec exec) noexcept;
#include "kernels/key_plane/table.inc"
#undef TESSERA_KERNEL

extern const KernelFamily<Args> kernels;

}  // namespace tessera::key_plane
