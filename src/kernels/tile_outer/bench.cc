#include <algorithm>

#include "base/caches.h"
#include "base/device.h"
#include "kernels/tile_bench.h"
#include "kernels/tile_outer/tile_outer.h"

namespace tessera::tile_outer {
namespace {

using tile_bench::Case;

Buffer filled(int64_t floats) {
  Buffer buffer = host_device().allocate(static_cast<size_t>(floats) * sizeof(float));
  std::fill_n(buffer.as<float>(), floats, 0.5f);
  return buffer;
}

void run_row(benchmark::State& state, const KernelRow<Args>& row, const Case& one) {
  const TilePattern pattern = tile_bench::random_pattern(one);
  const Buffer dy = filled(one.rows * one.outputs), x = filled(one.rows * one.inputs);
  const Buffer dw = filled(one.outputs * one.inputs);
  const Args args{.dy = dy.as<float>(),
                  .dy_stride = one.outputs,
                  .x = x.as<float>(),
                  .x_stride = one.inputs,
                  .rows = one.rows,
                  .inputs = one.inputs,
                  .shape = one.shape,
                  .panels = pattern.panels.data(),
                  .blocks = pattern.blocks.data(),
                  .dw = dw.as<float>(),
                  .dw_stride = one.inputs,
                  .group_rows = group_rows(one.inputs, l2_bytes())};
  tile_bench::measure(state, row, args, pattern, one);
}

[[maybe_unused]] const bool kRegistered = [] {
  for (const BlockShape shape : {BlockShape{16, 16}, {8, 16}, {16, 8}, {8, 8}}) {
    for (const int percent : {0, 50, 80, 90}) {
      for (const auto& [inputs, outputs] :
           {std::pair{384, 384}, {384, 1536}, {1536, 384}, {768, 3072}, {3072, 768}}) {
        tile_bench::register_case(kernels, run_row,
                                  {2048, inputs, outputs, shape, DType::kF32, percent});
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace tessera::tile_outer
