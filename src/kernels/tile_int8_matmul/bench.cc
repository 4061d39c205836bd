#include <cstring>

#include "base/caches.h"
#include "base/device.h"
#include "kernels/tile_bench.h"
#include "kernels/tile_int8_matmul/tile_int8_matmul.h"

namespace tessera::tile_int8_matmul {
namespace {

using tile_bench::Case;

struct Weights {
  explicit Weights(const Case& one) : pattern(tile_bench::random_pattern(one)) {
    values = host_device().allocate(static_cast<size_t>(pattern.values()) + 64);
    sums = host_device().allocate(pattern.panels.size() * 64);
    std::memset(values.data(), 3, static_cast<size_t>(pattern.values()));
    std::memset(sums.data(), 0, pattern.panels.size() * 64);
  }
  TilePattern pattern;
  Buffer values, sums;
};

void run_row(benchmark::State& state, const KernelRow<Args>& row, const Case& one) {
  const Weights weights(one);
  const U8RowsLayout layout = u8_rows_layout(one.rows, one.inputs);
  const Buffer x = host_device().allocate(static_cast<size_t>(layout.bytes));
  std::memset(x.data(), 0, static_cast<size_t>(layout.bytes));
  const Buffer y = host_device().allocate(static_cast<size_t>(one.rows * one.outputs) * 4);
  const std::vector<float> bias(static_cast<size_t>(one.outputs), 0.1f);
  const int64_t group = group_rows(one.inputs, l2_bytes());
  const Buffer scratch =
      host_device().allocate(static_cast<size_t>(scratch_bytes(group, one.inputs)));
  const Args args{.x = rows_in(x.data(), layout),
                  .rows = one.rows,
                  .inputs = one.inputs,
                  .shape = one.shape,
                  .panels = weights.pattern.panels.data(),
                  .blocks = weights.pattern.blocks.data(),
                  .values = weights.values.as<int8_t>(),
                  .scales = bias.data(),
                  .sums = weights.sums.as<int32_t>(),
                  .bias = bias.data(),
                  .y = y.as<float>(),
                  .y_stride = one.outputs,
                  .scratch = scratch.data(),
                  .group_rows = group};
  tile_bench::measure(state, row, args, weights.pattern, one);
}

[[maybe_unused]] const bool kRegistered =
    tile_bench::register_cases(kernels, run_row, {{16, 16}, {8, 16}, {16, 8}, {8, 8}}, DType::kI8);

}  // namespace
}  // namespace tessera::tile_int8_matmul
