#include <algorithm>

#include "base/caches.h"
#include "base/device.h"
#include "kernels/tile_bench.h"
#include "kernels/tile_matmul/tile_matmul.h"

namespace tessera::tile_matmul {
namespace {

using tile_bench::Case;

struct Weights {
  explicit Weights(const Case& one) : pattern(tile_bench::random_pattern(one)) {
    const size_t bytes =
        static_cast<size_t>(block_bytes(pattern, one.type)) * pattern.blocks.size();
    values = host_device().allocate(bytes + 64);
    std::fill_n(values.as<uint16_t>(), bytes / 2, f32_to_bf16(0.01f));
  }
  TilePattern pattern;
  Buffer values;
};

void run_row(benchmark::State& state, const KernelRow<Args>& row, const Case& one) {
  const Weights weights(one);
  const Buffer x = host_device().allocate(static_cast<size_t>(one.rows * one.inputs) * 4);
  const Buffer y = host_device().allocate(static_cast<size_t>(one.rows * one.outputs) * 4);
  std::fill_n(x.as<float>(), one.rows * one.inputs, 0.5f);
  const std::vector<float> bias(one.outputs, 0.1f);
  const int64_t group = group_rows(one.inputs, l2_bytes());
  const Buffer scratch =
      host_device().allocate(static_cast<size_t>(scratch_floats(group, one.inputs)) * 4);
  const Args args{.x = x.as<float>(),
                  .x_stride = one.inputs,
                  .rows = one.rows,
                  .inputs = one.inputs,
                  .shape = one.shape,
                  .panels = weights.pattern.panels.data(),
                  .blocks = weights.pattern.blocks.data(),
                  .values = weights.values.data(),
                  .weight_type = one.type,
                  .bias = bias.data(),
                  .y = y.as<float>(),
                  .y_stride = one.outputs,
                  .scratch = scratch.as<float>(),
                  .group_rows = group};
  tile_bench::measure(state, row, args, weights.pattern, one);
}

[[maybe_unused]] const bool kRegistered = [] {
  const std::vector<BlockShape> shapes = {{16, 16}, {8, 16}, {16, 8}, {8, 8}, {16, 1}};
  return tile_bench::register_cases(kernels, run_row, shapes, DType::kF32) &&
         tile_bench::register_cases(kernels, run_row, shapes, DType::kBF16);
}();

}  // namespace
}  // namespace tessera::tile_matmul
