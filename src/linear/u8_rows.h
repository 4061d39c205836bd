#pragma once

#include "formats/u8_rows.h"
#include "linear/linear.h"

// What maps share that read their rows as bytes.
namespace tessera {

// What Linear::convert_rows does for them: rounds rows `part` of args.x, of so many inputs, to
// bytes. multipliers: [inputs], by which x is multiplied before, or null.
struct U8Inputs {
  int64_t count = 0;
  const float* multipliers = nullptr;
};
void quantize_rows(const LinearArgs& args, Range part, const U8Inputs& inputs, void* target);

// Rows [rows.begin, rows.end) of what that made of all rows of a call.
U8Rows u8_rows_part(const LinearArgs& args, Range rows, int64_t inputs);

}  // namespace tessera
