#include <benchmark/benchmark.h>

#include <random>

#include "kernels/activation/activation.h"

namespace tessera::activation {
namespace {

// 128 rows of 3072: the hidden layer of a BERT-base feed-forward block at 128 tokens.
void run_row(benchmark::State& state, const KernelRow<Args>& row, Activation function) {
  constexpr int64_t kRows = 128, kCols = 3072;
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(kRows * kCols), y(x.size());
  for (float& value : x) value = normal(generator);
  const Args args{.function = function,
                  .x = x.data(),
                  .x_stride = kCols,
                  .cols = kCols,
                  .y = y.data(),
                  .y_stride = kCols};
  for (auto _ : state) {
    row.run(args, {0, kRows});
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * kRows * kCols);
}

[[maybe_unused]] const bool kRegistered = [] {
  const std::pair<const char*, Activation> functions[] = {{"relu", Activation::kRelu},
                                                          {"gelu_erf", Activation::kGeluErf},
                                                          {"gelu_tanh", Activation::kGeluTanh},
                                                          {"silu", Activation::kSilu},
                                                          {"tanh", Activation::kTanh}};
  for (const auto& [label, function] : functions) {
    for (const KernelRow<Args>& row : kernels.rows()) {
      if (!hardware_has(row.isa)) continue;
      benchmark::RegisterBenchmark((std::string(label) + "/" + row.name).c_str(), run_row, row,
                                   function);
    }
  }
  return true;
}();

}  // namespace
}  // namespace tessera::activation
