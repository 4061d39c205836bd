#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "formats/panels.h"
#include "kernels/matmul/matmul.h"

// The loops around a register tile of up to 6 rows x 64 outputs, for the vector rows. Included by
// files compiled for different instruction sets, so everything has internal linkage.
namespace tessera::matmul {
namespace {

constexpr int64_t kBlockRows = 6;
constexpr int64_t kLineBytes = 64;
// Inputs of a panel that are multiplied with all rows of a group before the next: 128 x 64 floats
// are 32 KB, two thirds of the L1 cache that the narrowest of our AVX-512 machines has.
constexpr int64_t kChunk = 128;
// Rows whose partial sums are kept between chunks: 48 KB of stack. Fewer where their inputs would
// take more than half the L2 cache: each panel reads them again.
constexpr int64_t kGroupRows = 192;
// Rows up to which a register tile unpacks bf16 itself, which takes a seventh of its time; for
// more, a chunk is widened to f32 once (measured on one core: 153 against 125 GFLOP/s for 18 rows,
// 141 against 155 for 128).
constexpr int64_t kDirectRows = 36;

// What a register tile prefetches into L2 while it works, in lines per step of 256 bytes of
// weights. A product of few rows waits for memory: it fetches its own stream from some way ahead
// (all of it, kStream), which the hardware's prefetcher alone does not keep up with (bf16, one row:
// 12 GB/s without, 15 of a possible 16 with). Among many rows each block fetches a part of the next
// chunk (kNext), so that its first block does not wait for it (128 x 768 x 3072: a tenth of the
// time).
enum class Fetch { kNone, kStream, kNext };
constexpr int64_t kStreamAheadBytes = 8192;

// One step's prefetches: 256 bytes of the stream at `weights`, or kLines lines at `ahead`.
template <Fetch kFetch, int kLines>
inline void fetch(const void* weights, const char* ahead) {
  if constexpr (kFetch == Fetch::kStream) {
    const char* stream = static_cast<const char*>(weights) + kStreamAheadBytes;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) _mm_prefetch(stream + i * kLineBytes, _MM_HINT_T1);
  } else if constexpr (kFetch == Fetch::kNext) {
#pragma GCC unroll 4
    for (int i = 0; i < kLines; ++i) _mm_prefetch(ahead + i * kLineBytes, _MM_HINT_T1);
  }
}

// One register tile: tile[r][n] (+)= sum_k x[r][k] w[k][n] over `inputs` inputs; tile rows are 64
// floats.
struct Block {
  const float* x;
  int64_t x_stride;
  const void* weights;
  int64_t inputs;
  float* tile;
  bool accumulate;
  const char* ahead;  // what kNext fetches, one line per input
};

// Where a finished tile goes.
struct Target {
  int64_t row;
  int64_t rows;
  int64_t output;   // of the tile's first column
  int64_t outputs;  // valid columns, at most 64
};

// As panel_elements, which these files must not share with others.
template <bool kWide>
inline int64_t panel_bytes(int64_t inputs) {
  constexpr int64_t kMultiple = kWide ? 16 : 32;
  return (inputs + kMultiple - 1) / kMultiple * kMultiple * kPanelOutputs * (kWide ? 4 : 2);
}

// The rows of the next block when `left` are left: whole blocks, and the last two of like height,
// because a flat block reads as much of the panel as a high one.
inline int64_t block_rows(int64_t left, int64_t most = kBlockRows) {
  if (left <= most) return left;
  return left >= 2 * most ? most : (left + 1) / 2;
}

template <typename Vectors, bool kWide, Fetch kFetch>
inline void multiply(int64_t rows, const Block& block) {
  switch (rows) {
    case 1:
      return Vectors::template multiply<1, kWide, kFetch>(block);
    case 2:
      return Vectors::template multiply<2, kWide, kFetch>(block);
    case 3:
      return Vectors::template multiply<3, kWide, kFetch>(block);
    case 4:
      return Vectors::template multiply<4, kWide, kFetch>(block);
    case 5:
      return Vectors::template multiply<5, kWide, kFetch>(block);
    default:
      return Vectors::template multiply<6, kWide, kFetch>(block);
  }
}

// A part of the inputs that is multiplied with all rows of a group before the next.
struct Chunk {
  int64_t begin;
  int64_t inputs;
  bool first;
  bool last;
  int64_t next;  // input that the next one begins with; behind the last, that of the next panel
};

// Calls visit(chunk) for the inputs of a product, in their order; once at least.
template <typename Visit>
inline void for_each_chunk(const Args& args, Visit visit) {
  const Exec whole = {0, args.inputs};
  const Exec* parts = args.input_parts != nullptr ? args.input_parts : &whole;
  const int64_t count = args.input_parts != nullptr ? args.input_part_count : 1;
  bool first = true;
  for (int64_t p = 0; p < count; ++p) {
    int64_t k = parts[p].begin;
    do {
      const int64_t inputs = parts[p].end - k < kChunk ? parts[p].end - k : kChunk;
      const bool ends = k + inputs >= parts[p].end, last = ends && p + 1 == count;
      visit(Chunk{k, inputs, first, last, ends && !last ? parts[p + 1].begin : k + inputs});
      first = false;
      k += inputs;
    } while (k < parts[p].end);
  }
}

// One group of rows times one panel. kWide: the panel holds f32, not bf16.
template <typename Vectors, bool kWide>
void group_times_panel(const Args& args, int64_t row, int64_t rows, int64_t panel) {
  alignas(64) float tiles[kGroupRows * kPanelOutputs];
  alignas(64) float widened[kWide ? 1 : kChunk * kPanelOutputs];
  constexpr int64_t kElementBytes = kWide ? 4 : 2;
  const char* weights =
      static_cast<const char*>(args.panels) + panel * panel_bytes<kWide>(args.inputs);
  const int64_t output = panel * kPanelOutputs;
  const int64_t outputs =
      args.outputs - output < kPanelOutputs ? args.outputs - output : kPanelOutputs;
  for_each_chunk(args, [&](const Chunk& chunk) {
    const int64_t inputs = chunk.inputs;
    const char* part = weights + chunk.begin * kPanelOutputs * kElementBytes;
    const bool widen = !kWide && rows > kDirectRows;
    if constexpr (!kWide) {
      if (widen) Vectors::widen(part, (inputs + 1) / 2, widened);
    }
    const char* ahead = weights + chunk.next * kPanelOutputs * kElementBytes;
    const char* ahead_end = ahead + inputs * kPanelOutputs * kElementBytes;
    for (int64_t r = 0; r < rows; ahead += inputs * kLineBytes) {
      const int64_t count = block_rows(rows - r);
      float* tile = tiles + r * kPanelOutputs;
      const Block block{args.x + (row + r) * args.x_stride + chunk.begin,
                        args.x_stride,
                        widen ? static_cast<const void*>(widened) : part,
                        inputs,
                        tile,
                        !chunk.first,
                        ahead};
      if (widen && ahead < ahead_end) {
        multiply<Vectors, true, Fetch::kNext>(count, block);
      } else if (widen) {
        multiply<Vectors, true, Fetch::kNone>(count, block);
      } else if (rows <= kBlockRows) {
        multiply<Vectors, kWide, Fetch::kStream>(count, block);
      } else if (ahead >= ahead_end) {
        multiply<Vectors, kWide, Fetch::kNone>(count, block);
      } else {
        multiply<Vectors, kWide, Fetch::kNext>(count, block);
      }
      if (chunk.last) Vectors::finish(args, tile, {row + r, count, output, outputs});
      r += count;
    }
  });
}

inline int64_t group_rows(const Args& args) {
  const int64_t fitting = args.l2_bytes / 2 / (4 * (args.inputs + 1)) / kBlockRows * kBlockRows;
  const int64_t least = 8 * kBlockRows;
  return fitting < least ? least : fitting < kGroupRows ? fitting : kGroupRows;
}

template <typename Vectors, bool kWide>
void product_of(const Args& args, Exec exec) {
  const int64_t group = group_rows(args);
  for (int64_t row = 0; row < args.rows; row += group) {
    const int64_t rows = args.rows - row < group ? args.rows - row : group;
    for (int64_t panel = exec.begin; panel < exec.end; ++panel) {
      group_times_panel<Vectors, kWide>(args, row, rows, panel);
    }
  }
}

template <typename Vectors>
void product(const Args& args, Exec exec) {
  if (args.weight_type == DType::kF32) {
    product_of<Vectors, true>(args, exec);
  } else {
    product_of<Vectors, false>(args, exec);
  }
}

}  // namespace
}  // namespace tessera::matmul
