#pragma once

#include <immintrin.h>
#include <stdint.h>

#include "kernels/group_matmul/group_matmul.h"
#include "kernels/matmul/blocked.h"

// The loops around a register tile, for the vector rows. Included by files compiled for different
// instruction sets, so everything has internal linkage.
//
// `V` has, beside its types Int, Sums and Float of kLanes numbers:
//   dot<kBits>(sums, weights, x): sums += weights x over the 2 inputs of 16 bits, or 4 of 8, that a
//   lane holds; kChains: sums that must be under way for it to run at full speed
//   kDirectRows: rows of `x` up to which weights are unpacked in registers, for each product again
//   vectors(rows): of outputs, that a register tile of so many rows has
//   finish: of kernels/matmul
// A row of split integers is two rows of bytes here, whose sums meet behind each block.
namespace tessera::group_matmul {
namespace {

using matmul::kBlockRows;
using matmul::kGroupRows;
using matmul::kLineBytes;
using matmul::kStreamAheadBytes;

// Bytes of 4 inputs' weights of 8 bits, 8 inputs' of 4 bits, or 2 inputs' of 16 bits.
constexpr int64_t kWordBytes = kPanelOutputs * 4;
// Steps that are unpacked at a time for all rows of a group: 16 KB of 16 bits, half of the smallest
// first-level cache.
constexpr int64_t kChunkSteps = kMaxBlockInputs / kStepInputs;

// Goes through the blocks of the inputs.
struct Walk {
  int64_t left, group, block, left_of_group;

  explicit Walk(const InputBlocks& blocks)
      : left(blocks.inputs), group(blocks.group), block(blocks.block), left_of_group(group) {}
  // Steps of the block that is next; 0 behind the last.
  inline int64_t steps() const {
    const int64_t most = left < left_of_group ? left : left_of_group;
    return ((most < block ? most : block) + kStepInputs - 1) / kStepInputs;
  }
  inline void advance() {
    const int64_t most = left < left_of_group ? left : left_of_group;
    const int64_t inputs = most < block ? most : block;
    left -= inputs;
    left_of_group -= inputs;
    if (left_of_group == 0) left_of_group = group;
  }
};

// How the weights of a step stand in memory: packed, with the scales of a block before its steps,
// or unpacked to words of as many bits as the rows, with scales apart.
enum class Form { k4, k8, kReady };

constexpr int words_of(int row_bits) { return row_bits == 16 ? 4 : 2; }
template <Form kForm, int kRowBits>
constexpr int64_t step_bytes() {
  return kWordBytes * (kForm == Form::k4 ? 1 : kForm == Form::k8 ? 2 : words_of(kRowBits));
}

// Word `i` of a step for the vector of outputs at `lanes`, as `dot` takes it: non-negative
// integers, two of 16 bits (inputs 0 and 2, 1 and 3, 4 and 6, 5 and 7) or four of 8.
template <typename V, Form kForm, int kRowBits>
inline typename V::Int word(const char* lanes, int i) {
  if constexpr (kForm == Form::kReady || (kForm == Form::k8 && kRowBits == 8)) {
    return V::load(lanes + i * kWordBytes);
  } else if constexpr (kRowBits == 8) {
    const auto both = V::load(lanes);
    return V::mask(i == 0 ? both : V::template shift<4>(both), 0x0f0f0f0f);
  } else if constexpr (kForm == Form::k8) {
    const auto four = V::load(lanes + i / 2 * kWordBytes);
    return i % 2 == 0 ? V::mask(four, 0x00ff00ff) : V::template shift<8>(four);
  } else {
    const auto eight = V::load(lanes);
    if (i == 3) return V::template shift<12>(eight);
    return V::mask(i == 0   ? eight
                   : i == 1 ? V::template shift<8>(eight)
                            : V::template shift<4>(eight),
                   0x000f000f);
  }
}

// How many rows of how many bits an integer row is.
template <RowForm kForm>
struct Rows {
  static constexpr int kBits = 8 * value_bytes(kForm);
  static constexpr int kParts = kForm == RowForm::k16Split ? 2 : 1;
};

// One register tile: sums[r][n] += over `blocks` blocks from `walk` on. sums: [rows][64].
struct Tile {
  const char* x;    // integers of the first row
  int64_t x_bytes;  // from a row, or a part of one, to the next
  const float* x_scales;
  const int32_t* x_sums;
  int64_t x_blocks;  // between the scales of two rows
  const char* weights;
  const float* scales;  // of unpacked weights, [blocks][64]
  DType scale_type;     // of packed ones
  int32_t zero;         // what has been added to the weights
  float* sums;
};

// The sums of one block in integers, of kRows rows and kVectors vectors, in kChains chains, which
// more than one hide the latency of the products.
template <typename V, Form kForm, RowForm kRowForm, int kRows, int kVectors>
struct Integers {
  static constexpr int kBits = Rows<kRowForm>::kBits;
  static constexpr int kParts = Rows<kRowForm>::kParts;
  static constexpr int kChains = kRows * kParts * kVectors < V::kChains ? 2 : 1;
  typename V::Sums at[kChains][kRows * kParts][kVectors];

  inline void add_word(const char* x, int64_t x_bytes, const char* weights, int i) {
    typename V::Int w[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) w[v] = word<V, kForm, kBits>(weights + v * V::kLanes * 4, i);
#pragma GCC unroll 8
    for (int r = 0; r < kRows * kParts; ++r) {
      int32_t few;
      __builtin_memcpy(&few, x + r * x_bytes + i * 4, sizeof(few));
      const auto all = V::set(few);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        auto& sums = at[i % kChains][r][v];
        sums = V::template dot<kBits>(sums, w[v], all);
      }
    }
  }
  inline typename V::Float sum(int r, int v) const {
    auto all = at[0][r * kParts][v];
    if constexpr (kChains == 2) all += at[1][r * kParts][v];
    if constexpr (kParts == 2) {
      all += at[0][r * kParts + 1][v] << 8;
      if constexpr (kChains == 2) all += at[1][r * kParts + 1][v] << 8;
    }
    return V::to_float(all);
  }
};

// One block of a tile, of which x, weights, scales and sums are those of its first.
template <typename V, Form kForm, RowForm kRowForm, int kRows, int kVectors>
void multiply_block(const Tile& tile, int64_t block, const char* x, const char* weights,
                    int64_t steps) {
  constexpr int kBits = Rows<kRowForm>::kBits, kParts = Rows<kRowForm>::kParts;
  constexpr int kWords = words_of(kBits);
  constexpr int64_t kStepBytes = step_bytes<kForm, kBits>();
  const int64_t x_bytes = tile.x_bytes;
  Integers<V, kForm, kRowForm, kRows, kVectors> integers;
  // What the weights are too large by is taken off first.
#pragma GCC unroll 8
  for (int r = 0; r < kRows * kParts; ++r) {
    const int32_t first =
        r % kParts == 0 ? -tile.zero * tile.x_sums[r / kParts * tile.x_blocks + block] : 0;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      integers.at[0][r][v] = V::start(first);
      if constexpr (integers.kChains == 2) integers.at[1][r][v] = V::start(0);
    }
  }
  const char* scales = weights;
  if constexpr (kForm != Form::kReady)
    weights += kPanelOutputs * (tile.scale_type == DType::kF32 ? 4 : 2);
  for (; steps > 0; --steps) {
    if constexpr (kForm != Form::kReady) {
#pragma GCC unroll 8
      for (int64_t i = 0; i < kStepBytes; i += kLineBytes)
        _mm_prefetch(weights + kStreamAheadBytes + i, _MM_HINT_T1);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kWords; ++i) integers.add_word(x, x_bytes, weights, i);
    x += kWords * 4;
    weights += kStepBytes;
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const auto scale = kForm == Form::kReady
                           ? V::load_floats(tile.scales + block * kPanelOutputs + v * V::kLanes)
                           : V::load_scales(scales, v, tile.scale_type);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto both = V::multiply(scale, V::set_float(tile.x_scales[r * tile.x_blocks + block]));
      float* sum = tile.sums + r * kPanelOutputs + v * V::kLanes;
      V::store_floats(sum, V::multiply_add(integers.sum(r, v), both, V::load_floats(sum)));
    }
  }
}

template <typename V, Form kForm, RowForm kRowForm, int kRows, int kVectors>
void multiply(const Tile& tile, Walk walk, int64_t blocks) {
  constexpr int kBits = Rows<kRowForm>::kBits;
  const char* x = tile.x;
  const char* weights = tile.weights;
  const int64_t scale_bytes =
      kForm == Form::kReady ? 0 : kPanelOutputs * (tile.scale_type == DType::kF32 ? 4 : 2);
  for (int64_t b = 0; b < blocks; ++b, walk.advance()) {
    const int64_t steps = walk.steps();
    multiply_block<V, kForm, kRowForm, kRows, kVectors>(tile, b, x, weights, steps);
    x += steps * words_of(kBits) * 4;
    weights += scale_bytes + steps * step_bytes<kForm, kBits>();
  }
}

// A tile of all of a panel's outputs.
template <typename V, Form kForm, RowForm kRowForm, int kRows>
void multiply_width(const Tile& tile, const Walk& walk, int64_t blocks) {
  constexpr int kVectors = V::vectors(kRows * Rows<kRowForm>::kParts);
  for (int64_t column = 0; column < kPanelOutputs; column += kVectors * V::kLanes) {
    Tile part = tile;
    part.weights += column * 4;
    part.scales += column;
    part.sums += column;
    multiply<V, kForm, kRowForm, kRows, kVectors>(part, walk, blocks);
  }
}

// Rows of the largest tile.
template <typename V, Form kForm, RowForm kRowForm>
constexpr int64_t most_rows() {
  constexpr int64_t kFitting = kBlockRows / Rows<kRowForm>::kParts;
  return kForm == Form::kReady || kFitting < V::kDirectRows ? kFitting : V::kDirectRows;
}

template <typename V, Form kForm, RowForm kRowForm, int kRows>
void multiply_if_fits(const Tile& tile, const Walk& walk, int64_t blocks) {
  if constexpr (kRows <= most_rows<V, kForm, kRowForm>())
    multiply_width<V, kForm, kRowForm, kRows>(tile, walk, blocks);
}

// At most most_rows() rows.
template <typename V, Form kForm, RowForm kRowForm>
void multiply_rows(int64_t rows, const Tile& tile, const Walk& walk, int64_t blocks) {
  switch (rows) {
    case 1:
      return multiply_if_fits<V, kForm, kRowForm, 1>(tile, walk, blocks);
    case 2:
      return multiply_if_fits<V, kForm, kRowForm, 2>(tile, walk, blocks);
    case 3:
      return multiply_if_fits<V, kForm, kRowForm, 3>(tile, walk, blocks);
    case 4:
      return multiply_if_fits<V, kForm, kRowForm, 4>(tile, walk, blocks);
    case 5:
      return multiply_if_fits<V, kForm, kRowForm, 5>(tile, walk, blocks);
    default:
      return multiply_if_fits<V, kForm, kRowForm, 6>(tile, walk, blocks);
  }
}

// The epilogue is that of kernels/matmul.
inline matmul::Args epilogue(const Args& args) {
  matmul::Args product = {};
  product.bias = args.bias;
  product.activation = args.activation;
  product.residual = args.residual;
  product.residual_stride = args.residual_stride;
  product.y = args.y;
  product.y_stride = args.y_stride;
  return product;
}

// Weights of some blocks, unpacked.
template <int kRowBits>
struct alignas(64) Chunk {
  char words[kChunkSteps * step_bytes<Form::kReady, kRowBits>()];
  float scales[kChunkSteps * kPanelOutputs];
};

// Unpacks blocks from `walk` on, as many as fit, and moves `weights` behind them.
template <typename V, Form kForm, int kRowBits>
int64_t unpack(const Args& args, Walk walk, const char*& weights, Chunk<kRowBits>& chunk) {
  constexpr int kWords = words_of(kRowBits);
  constexpr int64_t kStepBytes = step_bytes<kForm, kRowBits>();
  const DType scale_type = args.weights.scale_type;
  char* words = chunk.words;
  int64_t blocks = 0;
  for (int64_t steps = walk.steps(), all = steps; steps > 0 && all <= kChunkSteps;
       walk.advance(), steps = walk.steps(), all += steps, ++blocks) {
    for (int v = 0; v * V::kLanes < kPanelOutputs; ++v)
      V::store_floats(chunk.scales + blocks * kPanelOutputs + v * V::kLanes,
                      V::load_scales(weights, v, scale_type));
    weights += kPanelOutputs * (scale_type == DType::kF32 ? 4 : 2);
    for (int64_t s = 0; s < steps; ++s, weights += kStepBytes) {
      for (int64_t i = 0; i < kStepBytes; i += kLineBytes)
        _mm_prefetch(weights + kStreamAheadBytes + i, _MM_HINT_T1);
      for (int64_t v = 0; v < kPanelOutputs; v += V::kLanes) {
#pragma GCC unroll 4
        for (int i = 0; i < kWords; ++i)
          V::store(words + i * kWordBytes + v * 4, word<V, kForm, kRowBits>(weights + v * 4, i));
      }
      words += step_bytes<Form::kReady, kRowBits>();
    }
  }
  return blocks;
}

template <RowForm kRowForm>
Tile tile_at(const Args& args, int64_t row, float* sums) {
  return {.x = static_cast<const char*>(args.x.values) + row * args.x.row_bytes,
          .x_bytes = args.x.row_bytes / Rows<kRowForm>::kParts,
          .x_scales = args.x.scales + row * args.weights.blocks.count,
          .x_sums = args.x.sums + row * args.weights.blocks.count,
          .x_blocks = args.weights.blocks.count,
          .weights = nullptr,
          .scales = nullptr,
          .scale_type = args.weights.scale_type,
          .zero = args.weights.bits == 8 ? 128 : 8,
          .sums = sums};
}

// One group of rows times one panel, whose weights are unpacked once.
template <typename V, Form kForm, RowForm kRowForm>
void multiply_chunks(const Args& args, int64_t row, int64_t rows, const char* panel, float* sums) {
  constexpr int kBits = Rows<kRowForm>::kBits;
  Chunk<kBits> chunk;
  Walk walk(args.weights.blocks);
  int64_t first_block = 0, first_byte = 0;
  while (walk.left > 0) {
    const int64_t blocks = unpack<V, kForm, kBits>(args, walk, panel, chunk);
    for (int64_t r = 0; r < rows;) {
      const int64_t count = matmul::block_rows(rows - r, most_rows<V, Form::kReady, kRowForm>());
      Tile tile = tile_at<kRowForm>(args, row + r, sums + r * kPanelOutputs);
      tile.x += first_byte;
      tile.x_scales += first_block;
      tile.x_sums += first_block;
      tile.weights = chunk.words;
      tile.scales = chunk.scales;
      multiply_rows<V, Form::kReady, kRowForm>(count, tile, walk, blocks);
      r += count;
    }
    first_block += blocks;
    for (int64_t b = 0; b < blocks; ++b, walk.advance())
      first_byte += walk.steps() * kStepInputs * kBits / 8;
  }
}

template <typename V, Form kForm, RowForm kRowForm>
void group_times_panel(const Args& args, int64_t row, int64_t rows, int64_t panel) {
  alignas(64) float sums[kGroupRows * kPanelOutputs];
  for (int64_t i = 0; i < rows * kPanelOutputs; i += V::kLanes)
    V::store_floats(sums + i, V::set_float(0.0f));
  const int64_t scale_bytes = args.weights.scale_type == DType::kF32 ? 4 : 2;
  const InputBlocks& blocks = args.weights.blocks;
  const int64_t panel_bytes = kPanelOutputs * blocks.count * scale_bytes +
                              blocks.steps * step_bytes<kForm, Rows<kRowForm>::kBits>();
  const char* weights = static_cast<const char*>(args.panels) + panel * panel_bytes;
  if (rows <= most_rows<V, kForm, kRowForm>()) {
    Tile tile = tile_at<kRowForm>(args, row, sums);
    tile.weights = weights;
    multiply_rows<V, kForm, kRowForm>(rows, tile, Walk(blocks), blocks.count);
  } else {
    multiply_chunks<V, kForm, kRowForm>(args, row, rows, weights, sums);
  }
  const int64_t output = panel * kPanelOutputs;
  const int64_t left = args.weights.outputs - output;
  V::finish(epilogue(args), sums, {row, rows, output, left < kPanelOutputs ? left : kPanelOutputs});
}

inline int64_t group_rows(const Args& args) {
  const int64_t fitting = args.l2_bytes / 2 / args.x.row_bytes / kBlockRows * kBlockRows;
  const int64_t least = 8 * kBlockRows;
  return fitting < least ? least : fitting < kGroupRows ? fitting : kGroupRows;
}

template <typename V, Form kForm, RowForm kRowForm>
void product_of(const Args& args, Exec exec) {
  const int64_t group = group_rows(args);
  for (int64_t row = 0; row < args.rows; row += group) {
    const int64_t rows = args.rows - row < group ? args.rows - row : group;
    for (int64_t panel = exec.begin; panel < exec.end; ++panel)
      group_times_panel<V, kForm, kRowForm>(args, row, rows, panel);
  }
}

template <typename V, RowForm kRowForm>
void product(const Args& args, Exec exec) {
  if (args.weights.bits == 8) {
    product_of<V, Form::k8, kRowForm>(args, exec);
  } else {
    product_of<V, Form::k4, kRowForm>(args, exec);
  }
}

}  // namespace
}  // namespace tessera::group_matmul
