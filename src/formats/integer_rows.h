#pragma once

#include <cstdint>

namespace tessera {

// Integers are multiplied in steps of so many inputs, whatever the instructions.
constexpr int64_t kStepInputs = 8;
// Sums of so many products of 16 and 8 bits fit 32 bits.
constexpr int64_t kMaxBlockInputs = 128;

// How the inputs of a map are cut into blocks whose products are summed as integers: a block lies
// within one group of weights that share a scale, has at most kMaxBlockInputs inputs, and is padded
// to whole steps.
struct InputBlocks {
  int64_t inputs = 0;
  int64_t group = 0;  // inputs of a group, at least 1; the last may have fewer
  int64_t block = 0;  // inputs of a block; the last of a group may have fewer
  int64_t count = 0;  // blocks
  int64_t steps = 0;  // of all blocks
};

// group: as a QuantizedMatrix has it, 0: all inputs.
InputBlocks input_blocks(int64_t inputs, int64_t group);

// Calls visit(index, first input, inputs) for each block.
template <typename Visit>
void for_each_block(const InputBlocks& blocks, Visit visit) {
  int64_t index = 0;
  for (int64_t group = 0; group < blocks.inputs; group += blocks.group) {
    const int64_t left = blocks.inputs - group;
    const int64_t end = group + (left < blocks.group ? left : blocks.group);
    for (int64_t begin = group; begin < end; begin += blocks.block, ++index) {
      visit(index, begin, end - begin < blocks.block ? end - begin : blocks.block);
    }
  }
}

// How the integers of a row stand in memory: as bytes; as 16 bits, of every four inputs the second
// and the third in each other's place; or as 256 high + low, which instructions take that multiply
// bytes: the low bytes of all inputs, and row_bytes / 2 behind them the high ones.
enum class RowForm { k8, k16, k16Split };

// From one input's to the next one's, of split ones between their low bytes.
constexpr int32_t value_bytes(RowForm form) { return form == RowForm::k16 ? 2 : 1; }
// The largest integer: of 16 bits, the largest whose bytes are both at most 127.
constexpr int32_t most(RowForm form) { return form == RowForm::k8 ? 127 : 256 * 127 + 127; }

// Rows of floats as integers, a scale for each block of inputs:
//   x[m, k] ~ scales[m, block of k] * values[m, k]
// A row's values are those of its blocks one after another, `row_bytes` apart.
struct IntegerRows {
  RowForm form = RowForm::k16;
  void* values = nullptr;   // aligned to 64 bytes
  int64_t row_bytes = 0;    // more than the values take, so that rows do not share cache sets
  float* scales = nullptr;  // [rows, blocks]
  int32_t* sums = nullptr;  // [rows, blocks], of the integers
};

int64_t integer_rows_bytes(const InputBlocks& blocks, RowForm form, int64_t rows);
// Such rows in memory of integer_rows_bytes, aligned to 64 bytes.
IntegerRows integer_rows(const InputBlocks& blocks, RowForm form, int64_t rows, void* memory);

}  // namespace tessera
