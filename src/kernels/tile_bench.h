#pragma once

#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "formats/tile_panels.h"
#include "kernels/family.h"

// What the benchmarks of the products with tile-pruned weights have in common.
namespace tessera::tile_bench {

struct Case {
  int64_t rows, inputs, outputs;
  BlockShape shape;
  DType type;
  int percent;  // pruned
};

// Blocks kept at random. A weight's place in memory matters here, its value does not.
inline TilePattern random_pattern(const Case& one) {
  TilePattern pattern;
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
  return pattern;
}

template <typename Args>
void measure(benchmark::State& state, const KernelRow<Args>& row, const Args& args,
             const TilePattern& pattern, const Case& one) {
  for (auto _ : state) {
    row.run(args, {0, static_cast<int64_t>(pattern.panels.size())});
    benchmark::ClobberMemory();
  }
  const char* unit = one.type == DType::kI8 ? "ops" : "flops";
  state.counters[unit] = benchmark::Counter(2.0 * static_cast<double>(one.rows * pattern.values()),
                                            benchmark::Counter::kIsIterationInvariantRate);
  state.SetBytesProcessed(state.iterations() * pattern.values() *
                          static_cast<int64_t>(size_bytes(one.type)));
}

template <typename Args, typename Run>
void register_case(const KernelFamily<Args>& family, Run run, const Case& one) {
  const std::string type = one.type == DType::kI8 ? "" : std::string(name(one.type)) + "/";
  const std::string label = std::to_string(one.rows) + "x" + std::to_string(one.inputs) + "x" +
                            std::to_string(one.outputs) + "/" + std::to_string(one.shape.outputs) +
                            "x" + std::to_string(one.shape.inputs) + "/" + type +
                            std::to_string(one.percent) + "%/";
  for (const KernelRow<Args>& row : family.rows()) {
    if (!hardware_has(row.isa) || std::string(row.name) == "ref") continue;
    benchmark::RegisterBenchmark((label + row.name).c_str(), run, row, one);
  }
}

// The four products of BERT-base, and one row over more weights than a second-level cache holds.
template <typename Args, typename Run>
bool register_cases(const KernelFamily<Args>& family, Run run,
                    const std::vector<BlockShape>& shapes, DType type) {
  for (const BlockShape shape : shapes) {
    for (const int percent : {0, 50, 80, 90}) {
      for (const int64_t rows : {8, 24, 64, 128}) {
        for (const auto& [inputs, outputs] :
             {std::pair{768, 768}, {768, 2304}, {768, 3072}, {3072, 768}}) {
          register_case(family, run, {rows, inputs, outputs, shape, type, percent});
        }
      }
      register_case(family, run, {1, 4096, 16384, shape, type, percent});
    }
  }
  return true;
}

}  // namespace tessera::tile_bench
