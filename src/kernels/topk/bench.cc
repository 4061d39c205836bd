#include <benchmark/benchmark.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "kernels/topk/topk.h"

namespace tessera::topk {
namespace {

constexpr int64_t kRows = 16, kSize = 4096, kTaken = 512;

std::vector<float> rows() {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::vector<float> values(kRows * kSize);
  for (float& value : values) value = normal(generator);
  return values;
}

// 512 of 4096 values, as a schedule that keeps an eighth takes them.
void run_row(benchmark::State& state, const KernelRow<Args>& row) {
  const std::vector<float> x = rows();
  std::vector<int32_t> indices(kRows * kTaken), scratch(static_cast<size_t>(scratch_size(kSize)));
  const Args args{.x = x.data(),
                  .x_stride = kSize,
                  .n = kSize,
                  .k = kTaken,
                  .indices = indices.data(),
                  .indices_stride = kTaken,
                  .scratch = scratch.data()};
  for (auto _ : state) {
    row.run(args, {0, kRows});
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * kRows);
}

// The standard library's way: the threshold by nth_element, then a filter in the row's order.
void run_nth_element(benchmark::State& state) {
  const std::vector<float> x = rows();
  std::vector<float> values(kSize);
  std::vector<int32_t> indices(kRows * kTaken);
  for (auto _ : state) {
    for (int64_t m = 0; m < kRows; ++m) {
      const float* row = x.data() + m * kSize;
      std::copy_n(row, kSize, values.begin());
      std::nth_element(values.begin(), values.begin() + kTaken - 1, values.end(),
                       std::greater<float>());
      const float threshold = values[kTaken - 1];
      int64_t equals =
          kTaken - std::count_if(row, row + kSize, [&](float value) { return value > threshold; });
      int32_t* target = indices.data() + m * kTaken;
      for (int32_t i = 0; i < kSize; ++i) {
        if (row[i] > threshold || (row[i] == threshold && equals-- > 0)) *target++ = i;
      }
    }
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * kRows);
}

[[maybe_unused]] const bool kRegistered = [] {
  for (const KernelRow<Args>& row : kernels.rows()) {
    if (hardware_has(row.isa)) benchmark::RegisterBenchmark(row.name, run_row, row);
  }
  benchmark::RegisterBenchmark("std_nth_element", run_nth_element);
  return true;
}();

}  // namespace
}  // namespace tessera::topk
