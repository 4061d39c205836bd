#include "linear/u8_rows.h"

#include "kernels/quantize_rows_u8/quantize_rows_u8.h"

namespace tessera {

void quantize_rows(const LinearArgs& args, Range part, const U8Inputs& inputs, void* target) {
  const U8RowsLayout layout = u8_rows_layout(args.rows, inputs.count);
  auto* bytes = static_cast<uint8_t*>(target);
  quantize_rows_u8::kernels.run({.x = args.x,
                                 .x_stride = args.x_stride,
                                 .inputs = inputs.count,
                                 .multipliers = inputs.multipliers,
                                 .values = bytes,
                                 .stride = layout.stride,
                                 .scales = reinterpret_cast<float*>(bytes + layout.scales),
                                 .zeros = reinterpret_cast<int32_t*>(bytes + layout.zeros)},
                                {part.begin, part.end});
}

U8Rows u8_rows_part(const LinearArgs& args, Range rows, int64_t inputs) {
  U8Rows part = rows_in(args.converted, u8_rows_layout(args.rows, inputs));
  part.values += rows.begin * part.stride;
  part.scales += rows.begin;
  part.zeros += rows.begin;
  return part;
}

}  // namespace tessera
