#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/tile_int8_matmul/tile_int8_matmul.h"
#include "kernels/tile_matmul/blocks.h"

// What the vector rows share. Included by files compiled for different instruction sets, so
// everything has internal linkage.
namespace tessera::tile_int8_matmul {
namespace {

using namespace tile_blocks;  // of which these files are made

// What stands behind a register tile's packed inputs for each of its rows, 16 elements apart.
//   zeros: what the sums of the weights are multiplied by, in two products of 16 bits: a sum of
//   weights C is 128 h + l with h of 16 bits and l of 7, so that -zero C = -128 zero h - zero l
struct RowEnd {
  uint32_t zeros;
  float scale;
};

inline RowEnd row_end(const U8Rows& x, int64_t row) {
  const int32_t zero = -x.zeros[row];
  return {(uint32_t(zero) & 0xffff) | uint32_t(zero * 128) << 16, x.scales[row]};
}

// What tile_matmul/blocks.h asks for, from a struct Vectors of an instruction set with
//   kMaxRows, copy_line(source, target), multiply<rows, outputs, inputs>(args, tile)
template <typename Vectors, typename Integer>
struct Integers {
  using Args = tile_int8_matmul::Args;
  using Element = Integer;

  static int64_t row_elements(const Args& args) { return (lines(args.inputs) + 1) * kLane; }
  static Integer* packed(const Args& args) { return static_cast<Integer*>(args.scratch); }
  static int64_t block_bytes(const Args& args) {
    return int64_t{args.shape.inputs} * args.shape.outputs;
  }
  static int64_t fetch_bytes(const Args& args) { return block_bytes(args); }
  // Where the packed rows of a register tile fill no more than half of L1, they stay there for as
  // many weights as a small L2 keeps well; else a panel's weights do, for all rows.
  static int64_t chunk_bytes(const Args& args) {
    constexpr int64_t kRowBytes = 24 << 10, kChunkBytes = 128 << 10;
    const int64_t bytes = Vectors::kMaxRows * row_elements(args) * int64_t{sizeof(Integer)};
    return bytes <= kRowBytes ? kChunkBytes : 0;
  }

  template <int kRows>
  static Multiply<Args, Integer> choose(const Args& args) {
    if (args.shape.outputs == 16) {
      return args.shape.inputs == 16 ? Vectors::template multiply<kRows, 16, 16>
                                     : Vectors::template multiply<kRows, 16, 8>;
    }
    return args.shape.inputs == 16 ? Vectors::template multiply<kRows, 8, 16>
                                   : Vectors::template multiply<kRows, 8, 8>;
  }

  // Rows of x as [inputs / 16][rows][16], and their ends as [rows][16].
  static void pack(const Args& args, int64_t row, int64_t rows, Integer* packed) {
    const int64_t count = lines(args.inputs);
    for (int64_t r = 0; r < rows; ++r) {
      const uint8_t* x = args.x.values + (row + r) * args.x.stride;
      Integer* target = packed + r * kLane;
      for (int64_t b = 0; b < count; ++b) {
        Vectors::copy_line(x + b * kLane, target + b * rows * kLane);
      }
      const RowEnd end = row_end(args.x, row + r);
      __builtin_memcpy(target + count * rows * kLane, &end, sizeof(end));
    }
  }
};

// Where the ends of a register tile's rows begin, and one of them.
template <typename Integer>
inline const Integer* row_ends(const Args& args, const Tile<Integer>& tile, int64_t rows) {
  return tile.x + lines(args.inputs) * rows * kLane;
}
template <typename Integer>
inline RowEnd end_of(const Integer* ends, int64_t row) {
  RowEnd end;
  __builtin_memcpy(&end, ends + row * kLane, sizeof(end));
  return end;
}

// The sums of the weights of a register tile's panel.
template <typename Integer>
inline const int32_t* panel_sums(const Args& args, const Tile<Integer>& tile) {
  return args.sums + (tile.panel - args.panels) * kLane;
}

}  // namespace
}  // namespace tessera::tile_int8_matmul
