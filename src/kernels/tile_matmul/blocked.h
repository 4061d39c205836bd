#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/tile_matmul/tile_matmul.h"
#include "kernels/transpose/transpose.h"

// The loops around a register tile of some rows x one panel, for the vector rows. Included by files
// compiled for different instruction sets, so everything has internal linkage.
namespace tessera::tile_matmul {
namespace {

constexpr int64_t kLane = 16;  // floats of a step, and inputs of a packed cache line
constexpr int64_t kLineBytes = 64;
// A product of few rows waits for memory: it fetches its own stream from some way ahead, which the
// hardware's prefetcher alone does not keep up with.
constexpr int64_t kStreamAheadBytes = 8192;
constexpr int64_t kStreamRows = 6;
constexpr int64_t kFourSteps = 4 * kLane;  // values of four steps, at which a kernel fetches

// One register tile: rows that lie packed, [inputs / 16][rows][16] or, for blocks of single inputs,
// [inputs][rows], times a panel's blocks.
struct Tile {
  const float* x;
  int64_t row;  // of args
  const Panel* panel;
  const char* values;  // of the panel's first block
  // What more rows fetch into L2 while they work, so much per four steps: the rows of a group share
  // the fetching of the next panel, so that its first register tile does not wait for it.
  const char* ahead;
  int64_t ahead_lines;
};

inline void fetch_lines(const char* at, int64_t lines) {
  for (int64_t i = 0; i < lines; ++i) _mm_prefetch(at + i * kLineBytes, _MM_HINT_T1);
}

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

// As the functions of base and std, which these files must not share with others.
inline int64_t lines(int64_t inputs) { return (inputs + kLane - 1) / kLane; }
inline int64_t value_bytes(const Args& args) { return args.weight_type == DType::kF32 ? 4 : 2; }

// Rows [row, row + rows) of x as [inputs / 16][rows][16], padded with zeros.
template <typename Vectors>
void pack_rows(const Args& args, int64_t row, int64_t rows, float* packed) {
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

// Where the block begins among the packed rows.
template <int kRows>
inline const float* packed_at(const float* x, int32_t block, int32_t block_inputs) {
  const auto input = static_cast<uint64_t>(uint32_t(block) * uint64_t(uint32_t(block_inputs)));
  return x + input / kLane * (kLane * kRows) + input % kLane;
}

// The register tile of so many rows for the weights of these arguments.
using Multiply = void (*)(const Args&, const Tile&);

template <typename Vectors, int kRows>
Multiply choose(const Args& args) {
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

template <typename Vectors, int kRows = 1>
Multiply choose(const Args& args, int64_t rows) {
  if constexpr (kRows < Vectors::kMaxRows) {
    if (rows > kRows) return choose<Vectors, kRows + 1>(args, rows);
  }
  return choose<Vectors, kRows>(args);
}

// Rows in parts of at most `most` and of like height: a flat part reads as many weights as a high
// one.
struct Parts {
  int64_t rows;
  int64_t count;

  int64_t least;   // rows of a part
  int64_t higher;  // the first parts, which have one more

  Parts(int64_t of, int64_t most)
      : rows(of), count((of + most - 1) / most), least(of / count), higher(of % count) {}
  int64_t begin(int64_t part) const { return least * part + (part < higher ? part : higher); }
  int64_t height(int64_t part) const { return least + (part < higher ? 1 : 0); }
};

// Rows [first, first + blocks.rows), packed, times panels.
template <typename Vectors>
void multiply_group(const Args& args, int64_t first, const Parts& blocks, Exec panels) {
  const Multiply low = choose<Vectors>(args, blocks.least);
  const Multiply high = choose<Vectors>(args, blocks.least + (blocks.higher > 0 ? 1 : 0));
  const int64_t row_floats = lines(args.inputs) * kLane;
  const int64_t block_bytes = int64_t{args.shape.inputs} * args.shape.outputs * value_bytes(args);
  const int64_t four_lines = kFourSteps * value_bytes(args) / kLineBytes;
  const int64_t ahead_lines = (four_lines + blocks.count - 1) / blocks.count;
  for (int64_t p = panels.begin; p < panels.end; ++p) {
    const Panel& panel = args.panels[p];
    const int64_t size = (panel.end - panel.begin) * block_bytes;
    const char* values = static_cast<const char*>(args.values) + panel.begin * block_bytes;
    for (int64_t b = 0; b < blocks.count; ++b) {
      const int64_t begin = blocks.begin(b);
      const Tile tile{args.scratch + begin * row_floats,       first + begin, &panel, values,
                      values + size + size * b / blocks.count, ahead_lines};
      (b < blocks.higher ? high : low)(args, tile);
    }
  }
}

template <typename Vectors>
void product(const Args& args, Exec exec) {
  if (args.rows < 1) return;
  const Parts groups(args.rows, args.group_rows);
  for (int64_t g = 0; g < groups.count; ++g) {
    const int64_t first = groups.begin(g);
    const Parts blocks(groups.height(g), Vectors::kMaxRows);
    for (int64_t b = 0; b < blocks.count; ++b) {
      const int64_t begin = blocks.begin(b);
      pack_rows<Vectors>(args, first + begin, blocks.height(b),
                         args.scratch + begin * lines(args.inputs) * kLane);
    }
    multiply_group<Vectors>(args, first, blocks, exec);
  }
}

}  // namespace
}  // namespace tessera::tile_matmul
