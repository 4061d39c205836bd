#pragma once

#include <cstdint>
#include <vector>

#include "formats/tiles.h"

// The blocks that the kernels of tile-pruned matrices multiply: panels of 16 or 8 outputs, each a
// list of blocks of 16 or 8 inputs, or panels of 16 outputs that are lists of single inputs. What a
// checkpoint's tiles are, follows from what they are made of: a tile of 32 x 32 is two panels' two
// blocks, one of 16 x 1 a block.
namespace tessera {

struct BlockShape {
  int32_t outputs = 16;
  int32_t inputs = 16;
};

// Outputs [output, output + outputs) of the product: the sum of blocks [begin, end).
struct TilePanel {
  int64_t output = 0;
  int32_t outputs = 0;  // at most the block's
  int32_t begin = 0;
  int32_t end = 0;
};

using TileStack = std::vector<TileMatrix>;

// The blocks of a stack of tile-pruned matrices, whose outputs are laid one after another: each
// that overlaps a kept tile.
struct TilePattern {
  BlockShape shape;
  std::vector<TilePanel> panels;
  std::vector<int32_t> blocks;  // the block of inputs that each stands for, ascending in a panel

  int64_t block_values() const { return int64_t{shape.inputs} * shape.outputs; }
  int64_t values() const { return static_cast<int64_t>(blocks.size()) * block_values(); }
};

// The largest block that no tile of the stack has to be padded for. Where tiles are no multiple of
// 8 inputs wide, single inputs, and where they are no multiple of 8 outputs high, the smallest.
// least_inputs: 1, or 8 for kernels that have no single inputs.
BlockShape block_shape(const TileStack& stack, int32_t least_inputs = 1);
// At most 2^31 - 1 blocks; the matrices are valid and have equal inputs.
TilePattern find_blocks(const TileStack& stack, BlockShape shape);

// The values of a block before they are laid in a kernel's order: [input][output], 0 where pruned
// or outside. Value is float, which f32, f16 and bf16 are converted to, or int8_t of int8 tiles.
template <typename Value>
struct BlockValues {
  alignas(64) Value at[16][16] = {};
};

// Block `index` of the pattern, which is one of the panel's.
template <typename Value>
BlockValues<Value> read_block(const TileStack& stack, const TilePattern& pattern,
                              const TilePanel& panel, int32_t index);

}  // namespace tessera
