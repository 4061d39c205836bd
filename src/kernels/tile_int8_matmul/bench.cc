#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <string>

#include "base/device.h"
#include "kernels/tile_int8_matmul/tile_int8_matmul.h"

namespace tessera::tile_int8_matmul {
namespace {

struct Case {
  int64_t rows, inputs, outputs;
  BlockShape shape;
  int percent;  // pruned
};

// Blocks kept at random. A weight's place in memory matters here, its value does not.
struct Weights {
  explicit Weights(const Case& one) {
    pattern.shape = one.shape;
    std::mt19937 generator(1);
    std::bernoulli_distribution keep(1 - one.percent / 100.0);
    for (int64_t n = 0; n < one.outputs; n += one.shape.outputs) {
      const auto begin = static_cast<int32_t>(pattern.blocks.size());
      for (int32_t b = 0; b < one.inputs / one.shape.inputs; ++b) {
        if (keep(generator)) pattern.blocks.push_back(b);
      }
      pattern.panels.push_back(
          {n, one.shape.outputs, begin, static_cast<int32_t>(pattern.blocks.size())});
    }
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
  const NarrowLayout layout = narrow_layout(one.rows, one.inputs);
  const Buffer x = host_device().allocate(static_cast<size_t>(layout.bytes));
  std::memset(x.data(), 0, static_cast<size_t>(layout.bytes));
  const Buffer y = host_device().allocate(static_cast<size_t>(one.rows * one.outputs) * 4);
  const std::vector<float> bias(static_cast<size_t>(one.outputs), 0.1f);
  const int64_t group = group_rows(one.inputs);
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
  for (auto _ : state) {
    row.run(args, {0, static_cast<int64_t>(weights.pattern.panels.size())});
    benchmark::ClobberMemory();
  }
  const int64_t executed = weights.pattern.values();
  state.counters["ops"] = benchmark::Counter(2.0 * static_cast<double>(one.rows * executed),
                                             benchmark::Counter::kIsIterationInvariantRate);
  state.SetBytesProcessed(state.iterations() * executed);
}

// The four products of BERT-base, and one row over more weights than a second-level cache holds.
std::vector<Case> cases() {
  std::vector<Case> all;
  for (const BlockShape shape : {BlockShape{16, 16}, {8, 16}, {16, 8}, {8, 8}}) {
    for (const int percent : {0, 50, 80, 90}) {
      for (const int64_t rows : {8, 24, 64, 128}) {
        for (const auto& [inputs, outputs] :
             {std::pair{768, 768}, {768, 2304}, {768, 3072}, {3072, 768}}) {
          all.push_back({rows, inputs, outputs, shape, percent});
        }
      }
      all.push_back({1, 4096, 16384, shape, percent});
    }
  }
  return all;
}

[[maybe_unused]] const bool kRegistered = [] {
  for (const Case& one : cases()) {
    for (const KernelRow<Args>& row : kernels.rows()) {
      if (!hardware_has(row.isa) || std::string(row.name) == "ref") continue;
      const std::string label =
          std::to_string(one.rows) + "x" + std::to_string(one.inputs) + "x" +
          std::to_string(one.outputs) + "/" + std::to_string(one.shape.outputs) + "x" +
          std::to_string(one.shape.inputs) + "/" + std::to_string(one.percent) + "%/" + row.name;
      benchmark::RegisterBenchmark(label.c_str(), run_row, row, one);
    }
  }
  return true;
}();

}  // namespace
}  // namespace tessera::tile_int8_matmul
