#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/tile_matmul/blocks.h"
#include "kernels/tile_matmul/tile_matmul.h"
#include "kernels/transpose/transpose.h"

// What the vector rows share. Included by files compiled for different instruction sets, so
// everything has internal linkage.
namespace tessera::tile_matmul {
namespace {

using namespace tile_blocks;  // of which these files are made

constexpr int64_t kFourSteps = 4 * kLane;  // values of four steps, at which a kernel fetches

// Single inputs lie anywhere among the packed rows, which no hardware prefetcher follows: what four
// of them read is fetched into L1 so many inputs ahead (128 x 768 x 768, 80% pruned: 113 GFLOP/s
// without, 128 with).
constexpr int64_t kSinglesAhead = 8;

template <int kRows>
inline void fetch_singles(const float* x, const int32_t* inputs) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const char* rows = reinterpret_cast<const char*>(x + int64_t{inputs[i]} * kRows);
    _mm_prefetch(rows, _MM_HINT_T0);
    if (kRows > kLane) _mm_prefetch(rows + (kRows - 1) * 4, _MM_HINT_T0);
  }
}

inline int64_t value_bytes(const Args& args) { return args.weight_type == DType::kF32 ? 4 : 2; }

// What tile_matmul/blocks.h asks for, from a struct Vectors of an instruction set with
//   kMaxRows, copy_line(source, target), transpose(args, rows),
//   multiply<rows, outputs, is f32>(args, tile), multiply_singles<rows, is f32>(args, tile)
template <typename Vectors>
struct Floats {
  using Args = tile_matmul::Args;
  using Element = float;

  static int64_t row_elements(const Args& args) { return lines(args.inputs) * kLane; }
  static float* packed(const Args& args) { return args.scratch; }
  static int64_t block_bytes(const Args& args) {
    return int64_t{args.shape.inputs} * args.shape.outputs * value_bytes(args);
  }
  static int64_t fetch_bytes(const Args& args) { return kFourSteps * value_bytes(args); }
  // A panel's, because packed rows are too large for L1 in any case.
  static int64_t chunk_bytes(const Args&) { return 0; }

  template <int kRows>
  static Multiply<Args, float> choose(const Args& args) {
    const bool wide = args.weight_type == DType::kF32;
    if (args.shape.inputs == 1) {
      return wide ? Vectors::template multiply_singles<kRows, true>
                  : Vectors::template multiply_singles<kRows, false>;
    }
    if (args.shape.outputs == 16) {
      return wide ? Vectors::template multiply<kRows, 16, true>
                  : Vectors::template multiply<kRows, 16, false>;
    }
    return wide ? Vectors::template multiply<kRows, 8, true>
                : Vectors::template multiply<kRows, 8, false>;
  }

  // Rows of x as [inputs / 16][rows][16], padded with zeros, or for single inputs [inputs][rows].
  static void pack(const Args& args, int64_t row, int64_t rows, float* packed) {
    if (args.shape.inputs == 1) {
      Vectors::transpose({args.x + row * args.x_stride, args.x_stride, args.inputs, packed, rows},
                         {0, rows});
      return;
    }
    const int64_t whole = args.inputs / kLane, rest = args.inputs % kLane;
    for (int64_t r = 0; r < rows; ++r) {
      const float* x = args.x + (row + r) * args.x_stride;
      float* target = packed + r * kLane;
      for (int64_t b = 0; b < whole; ++b) {
        Vectors::copy_line(x + b * kLane, target + b * rows * kLane);
      }
      if (rest == 0) continue;
      float* last = target + whole * rows * kLane;
      for (int64_t i = 0; i < kLane; ++i) last[i] = i < rest ? x[whole * kLane + i] : 0.0f;
    }
  }
};

}  // namespace
}  // namespace tessera::tile_matmul
