#include "formats/integer_rows.h"

#include <algorithm>

namespace tessera {
namespace {

constexpr int64_t kLineBytes = 64;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t whole_lines(int64_t bytes) { return ceil_div(bytes, kLineBytes) * kLineBytes; }

// A line behind the values: vectors may be written beyond them, and rows of 4 KiB would otherwise
// lie in one set of the cache.
int64_t row_bytes(const InputBlocks& blocks, RowForm form) {
  const int64_t part = whole_lines(blocks.steps * kStepInputs * value_bytes(form)) + kLineBytes;
  return form == RowForm::k16Split ? 2 * part : part;
}

}  // namespace

InputBlocks input_blocks(int64_t inputs, int64_t group) {
  InputBlocks blocks{.inputs = inputs, .group = group == 0 ? inputs : group};
  blocks.block = std::min(blocks.group, kMaxBlockInputs);
  for_each_block(blocks, [&](int64_t, int64_t, int64_t count) {
    ++blocks.count;
    blocks.steps += ceil_div(count, kStepInputs);
  });
  return blocks;
}

int64_t integer_rows_bytes(const InputBlocks& blocks, RowForm form, int64_t rows) {
  const int64_t scale_bytes = int64_t{sizeof(float) + sizeof(int32_t)};
  return whole_lines(rows * (row_bytes(blocks, form) + blocks.count * scale_bytes));
}

IntegerRows integer_rows(const InputBlocks& blocks, RowForm form, int64_t rows, void* memory) {
  IntegerRows made{.form = form, .values = memory, .row_bytes = row_bytes(blocks, form)};
  void* behind = static_cast<char*>(memory) + rows * made.row_bytes;
  made.scales = static_cast<float*>(behind);
  made.sums = reinterpret_cast<int32_t*>(made.scales + rows * blocks.count);
  return made;
}

}  // namespace tessera
