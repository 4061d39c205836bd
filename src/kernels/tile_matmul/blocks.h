#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "formats/tile_panels.h"
#include "kernels/activation/activation.h"
#include "kernels/family.h"

// The loops around a register tile of some rows x one panel of a tile-pruned matrix, for the vector
// rows of all families that multiply such. Included by files compiled for different instruction
// sets, so everything has internal linkage.
//
// What a family and an instruction set differ in is a struct with static members:
//   Args                  of the family, with rows, group_rows, shape, panels, blocks, values
//   Element               of packed rows
//   kMaxRows              of a register tile
//   row_elements(args)    that a packed row takes
//   pack(args, row, rows, packed)  packs rows [row, row + rows)
//   packed(args)          where packed rows begin
//   block_bytes(args), fetch_bytes(args)  weights of a block, and from one fetch to the next
//   chunk_bytes(args)     weights that a register tile goes through before the next
//   choose<rows>(args)    the register tile of so many rows
namespace tessera::tile_blocks {
namespace {

constexpr int64_t kLane = 16;  // outputs of a panel at most, and inputs of a packed line
constexpr int64_t kLineBytes = 64;
// A product of few rows waits for memory: it fetches its own stream from some way ahead, which the
// hardware's prefetcher alone does not keep up with.
constexpr int64_t kStreamAheadBytes = 8192;

// One register tile: rows that lie packed, [inputs / 16][rows][16] or, for blocks of single inputs,
// [inputs][rows], times a panel's blocks.
template <typename Element>
struct Tile {
  const Element* x;
  int64_t row;  // of args
  const TilePanel* panel;
  const char* values;  // of the panel's first block
  // What more rows fetch into L2 while they work, so many lines at a time: the rows of a group
  // share the fetching of the next panel, so that its first register tile does not wait for it.
  const char* ahead;
  int64_t ahead_lines;
};

inline void fetch_lines(const char* at, int64_t lines) {
  for (int64_t i = 0; i < lines; ++i) _mm_prefetch(at + i * kLineBytes, _MM_HINT_T1);
}

// As the functions of base and std, which these files must not share with others.
inline int64_t lines(int64_t inputs) { return (inputs + kLane - 1) / kLane; }

// Where the block begins among the packed rows.
template <int kRows, typename Element>
inline const Element* packed_at(const Element* x, int32_t block, int32_t block_inputs) {
  const auto input = static_cast<uint64_t>(uint32_t(block) * uint64_t(uint32_t(block_inputs)));
  return x + input / kLane * (kLane * kRows) + input % kLane;
}

template <typename Args, typename Element>
using Multiply = void (*)(const Args&, const Tile<Element>&);

template <typename Vectors, int kRows = 1>
auto choose(const typename Vectors::Args& args, int64_t rows) {
  if constexpr (kRows < Vectors::kMaxRows) {
    if (rows > kRows) return choose<Vectors, kRows + 1>(args, rows);
  }
  return Vectors::template choose<kRows>(args);
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

// Where the panels end that a register tile goes through before the next one does: those whose
// weights take chunk_bytes, but one at least.
template <typename Vectors>
int64_t chunk_end(const typename Vectors::Args& args, int64_t begin, int64_t end) {
  const int64_t most = Vectors::chunk_bytes(args) / Vectors::block_bytes(args);
  int64_t chunk = begin + 1;
  while (chunk < end && args.panels[chunk].end - args.panels[begin].begin <= most) ++chunk;
  return chunk;
}

// Rows [first, first + blocks.rows), packed, times panels.
template <typename Vectors>
void multiply_group(const typename Vectors::Args& args, int64_t first, const Parts& blocks,
                    Exec panels) {
  const auto low = choose<Vectors>(args, blocks.least);
  const auto high = choose<Vectors>(args, blocks.least + (blocks.higher > 0 ? 1 : 0));
  const int64_t row_elements = Vectors::row_elements(args);
  const int64_t block_bytes = Vectors::block_bytes(args);
  const int64_t fetched_lines = Vectors::fetch_bytes(args) / kLineBytes;
  const int64_t ahead_lines = (fetched_lines + blocks.count - 1) / blocks.count;
  for (int64_t chunk = panels.begin, end = 0; chunk < panels.end; chunk = end) {
    end = chunk_end<Vectors>(args, chunk, panels.end);
    const int64_t chunk_size = (args.panels[end - 1].end - args.panels[chunk].begin) * block_bytes;
    for (int64_t b = 0; b < blocks.count; ++b) {
      const int64_t begin = blocks.begin(b);
      for (int64_t p = chunk; p < end; ++p) {
        const TilePanel& panel = args.panels[p];
        const int64_t size = (panel.end - panel.begin) * block_bytes;
        const char* values = reinterpret_cast<const char*>(args.values) + panel.begin * block_bytes;
        const Tile<typename Vectors::Element> tile{
            Vectors::packed(args) + begin * row_elements,  first + begin, &panel, values,
            values + chunk_size + size * b / blocks.count, ahead_lines};
        (b < blocks.higher ? high : low)(args, tile);
      }
    }
  }
}

template <typename Vectors>
void product(const typename Vectors::Args& args, Exec exec) {
  if (args.rows < 1) return;
  const Parts groups(args.rows, args.group_rows);
  for (int64_t g = 0; g < groups.count; ++g) {
    const int64_t first = groups.begin(g);
    const Parts blocks(groups.height(g), Vectors::kMaxRows);
    for (int64_t b = 0; b < blocks.count; ++b) {
      const int64_t begin = blocks.begin(b);
      Vectors::pack(args, first + begin, blocks.height(b),
                    Vectors::packed(args) + begin * Vectors::row_elements(args));
    }
    multiply_group<Vectors>(args, first, blocks, exec);
  }
}

}  // namespace
}  // namespace tessera::tile_blocks
