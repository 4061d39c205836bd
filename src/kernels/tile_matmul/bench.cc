#include <benchmark/benchmark.h>

#include <random>
#include <string>

#include "base/device.h"
#include "kernels/tile_matmul/tile_matmul.h"

namespace tessera::tile_matmul {
namespace {

struct Case {
  int64_t rows, inputs, outputs;
  BlockShape shape;
  DType type;
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
  const int64_t group = group_rows(one.inputs);
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
  for (auto _ : state) {
    row.run(args, {0, static_cast<int64_t>(weights.pattern.panels.size())});
    benchmark::ClobberMemory();
  }
  const int64_t executed =
      static_cast<int64_t>(weights.pattern.blocks.size()) * one.shape.inputs * one.shape.outputs;
  state.counters["flops"] = benchmark::Counter(2.0 * static_cast<double>(one.rows * executed),
                                               benchmark::Counter::kIsIterationInvariantRate);
  state.SetBytesProcessed(state.iterations() * executed *
                          static_cast<int64_t>(size_bytes(one.type)));
}

// The four products of BERT-base, and one row over more weights than a second-level cache holds.
std::vector<Case> cases() {
  std::vector<Case> all;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const BlockShape shape : {BlockShape{16, 16}, {8, 16}, {16, 8}, {8, 8}, {16, 1}}) {
      for (const int percent : {0, 50, 80, 90}) {
        for (const int64_t rows : {8, 24, 64, 128}) {
          for (const auto& [inputs, outputs] :
               {std::pair{768, 768}, {768, 2304}, {768, 3072}, {3072, 768}}) {
            all.push_back({rows, inputs, outputs, shape, type, percent});
          }
        }
        all.push_back({1, 4096, 16384, shape, type, percent});
      }
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
          std::to_string(one.shape.inputs) + "/" + std::string(name(one.type)) + "/" +
          std::to_string(one.percent) + "%/" + row.name;
      benchmark::RegisterBenchmark(label.c_str(), run_row, row, one);
    }
  }
  return true;
}();

}  // namespace
}  // namespace tessera::tile_matmul
