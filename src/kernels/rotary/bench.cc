#include <benchmark/benchmark.h>

#include "kernels/rotary/rotary.h"

namespace tessera::rotary {
namespace {

// 128 rows of 32 heads of 64: the queries of a 1.1B Llama at 128 tokens.
void run_row(benchmark::State& state, const KernelRow<Args>& row) {
  constexpr int32_t kRows = 128, kHeads = 32, kHeadSize = 64;
  std::vector<float> x(kRows * kHeads * kHeadSize, 1.0f);
  std::vector<float> cosines(kRows * kHeadSize / 2, 0.6f), sines(cosines.size(), 0.8f);
  std::vector<int32_t> positions(kRows);
  for (int32_t r = 0; r < kRows; ++r) positions[r] = r;
  const Args args{.x = x.data(),
                  .x_stride = kHeads * kHeadSize,
                  .heads = kHeads,
                  .head_size = kHeadSize,
                  .rotated = kHeadSize,
                  .positions = positions.data(),
                  .cosines = cosines.data(),
                  .sines = sines.data()};
  for (auto _ : state) {
    row.run(args, {0, kRows});
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * kRows * kHeads * kHeadSize);
}

[[maybe_unused]] const bool kRegistered = [] {
  for (const KernelRow<Args>& row : kernels.rows()) {
    if (hardware_has(row.isa)) benchmark::RegisterBenchmark(row.name, run_row, row);
  }
  return true;
}();

}  // namespace
}  // namespace tessera::rotary
