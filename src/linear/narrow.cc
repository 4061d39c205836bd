#include "linear/narrow.h"

#include "kernels/narrow_rows/narrow_rows.h"

namespace tessera {

void narrow_to_bytes(const LinearArgs& args, Range part, const NarrowInputs& inputs, void* target) {
  const NarrowLayout layout = narrow_layout(args.rows, inputs.count);
  auto* bytes = static_cast<uint8_t*>(target);
  narrow_rows::kernels.run({.x = args.x,
                            .x_stride = args.x_stride,
                            .inputs = inputs.count,
                            .multipliers = inputs.multipliers,
                            .values = bytes,
                            .stride = layout.stride,
                            .scales = reinterpret_cast<float*>(bytes + layout.scales),
                            .zeros = reinterpret_cast<int32_t*>(bytes + layout.zeros)},
                           {part.begin, part.end});
}

NarrowRows narrow_part(const LinearArgs& args, Range rows, int64_t inputs) {
  NarrowRows part = rows_in(args.narrow, narrow_layout(args.rows, inputs));
  part.values += rows.begin * part.stride;
  part.scales += rows.begin;
  part.zeros += rows.begin;
  return part;
}

}  // namespace tessera
