#pragma once

#include "formats/narrow_rows.h"
#include "linear/linear.h"

// What maps share that read their rows as bytes.
namespace tessera {

// What Linear::narrow does for them: rounds rows `part` of args.x, of so many inputs, to bytes.
// multipliers: [inputs], by which x is multiplied before, or null.
struct NarrowInputs {
  int64_t count = 0;
  const float* multipliers = nullptr;
};
void narrow_to_bytes(const LinearArgs& args, Range part, const NarrowInputs& inputs, void* target);

// Rows [rows.begin, rows.end) of what that made of all rows of a call.
NarrowRows narrow_part(const LinearArgs& args, Range rows, int64_t inputs);

}  // namespace tessera
