#pragma once

#include <stdint.h>

#include "kernels/quantize_rows_blockwise/quantize_rows_blockwise.h"

// The loops over rows and blocks, for the vector rows. Included by files compiled for different
// instruction sets, so everything has internal linkage.
namespace tessera::quantize_rows_blockwise {
namespace {

// One block: its floats, and where its integers and their scale go.
struct Block {
  const float* x;
  const float* multipliers;
  int64_t count;
  char* values;
  int64_t high;  // bytes from the low bytes of split integers to their high ones
  float* scale;
  int32_t* sum;
};

// What the integers of a block are multiplied by, and its scale. The largest magnitude comes as the
// bits of a float, which order NaN above all.
inline float set_scale(int32_t largest_bits, float most, float* scale) {
  constexpr int32_t kInfinity = 0x7f800000;
  float largest;
  __builtin_memcpy(&largest, &largest_bits, sizeof(largest));
  const bool finite = largest_bits < kInfinity, zero = !finite || largest < kLeast;
  *scale = zero ? 0 : largest / most;
  if (!finite) *scale = __builtin_nanf("");
  return zero ? 0 : most / largest;
}

template <typename Vectors, RowForm kForm>
void round_row(const Args& args, int64_t row) {
  const InputBlocks& blocks = args.blocks;
  const float* x = args.x + row * args.x_stride;
  char* values = static_cast<char*>(args.rows.values) + row * args.rows.row_bytes;
  float* scale = args.rows.scales + row * blocks.count;
  int32_t* sum = args.rows.sums + row * blocks.count;
  for (int64_t begin = 0, group_end = 0; begin < blocks.inputs; ++scale, ++sum) {
    if (begin == group_end) group_end += blocks.group;
    const int64_t end = group_end < blocks.inputs ? group_end : blocks.inputs;
    const int64_t count = end - begin < blocks.block ? end - begin : blocks.block;
    const float* multipliers = args.multipliers == nullptr ? nullptr : args.multipliers + begin;
    Vectors::template round<kForm>(
        {x + begin, multipliers, count, values, args.rows.row_bytes / 2, scale, sum});
    values += (count + kStepInputs - 1) / kStepInputs * kStepInputs * value_bytes(kForm);
    begin += count;
  }
}

template <typename Vectors>
void round_all(const Args& args, Exec exec) {
  for (int64_t row = exec.begin; row < exec.end; ++row) {
    switch (args.rows.form) {
      case RowForm::k8:
        round_row<Vectors, RowForm::k8>(args, row);
        break;
      case RowForm::k16:
        round_row<Vectors, RowForm::k16>(args, row);
        break;
      case RowForm::k16Split:
        round_row<Vectors, RowForm::k16Split>(args, row);
        break;
    }
  }
}

}  // namespace
}  // namespace tessera::quantize_rows_blockwise
