#include <benchmark/benchmark.h>
#include <omp.h>

#include <memory>
#include <random>
#include <string>

#include "base/device.h"
#include "formats/panels.h"
#include "kernels/matmul/matmul.h"

namespace tessera::matmul {
namespace {

struct Shape {
  int64_t rows, inputs, outputs;
};

// Panels of small random values; a weight's place in memory matters here, its value does not.
Buffer random_panels(const Shape& shape, DType type) {
  const int64_t count = panel_count(shape.outputs) * panel_elements(type, shape.inputs);
  Buffer panels = host_device().allocate(static_cast<size_t>(count) * size_bytes(type));
  std::minstd_rand generator(1);
  for (int64_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(generator() % 2048) / 1024 - 1;
    if (type == DType::kF32) {
      panels.as<float>()[i] = value;
    } else {
      panels.as<uint16_t>()[i] = f32_to_bf16(value);
    }
  }
  return panels;
}

void run_row(benchmark::State& state, const KernelRow<Args>& row, Shape shape, DType type) {
  omp_set_num_threads(1);
  const Buffer panels = random_panels(shape, type);
  std::vector<float> x(shape.rows * shape.inputs, 0.5f), y(shape.rows * shape.outputs);
  const std::vector<float> bias(shape.outputs, 0.1f);
  const Args args{.x = x.data(),
                  .x_stride = shape.inputs,
                  .rows = shape.rows,
                  .inputs = shape.inputs,
                  .panels = panels.data(),
                  .weight_type = type,
                  .outputs = shape.outputs,
                  .bias = bias.data(),
                  .y = y.data(),
                  .y_stride = shape.outputs};
  if (row.refuse(args) != nullptr) return state.SkipWithError(row.refuse(args));
  for (auto _ : state) {
    row.run(args, {0, panel_count(shape.outputs)});
    benchmark::ClobberMemory();
  }
  const double flops = 2.0 * static_cast<double>(shape.rows * shape.inputs * shape.outputs);
  state.counters["flops"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(panels.size_bytes()));
}

void run_pack(benchmark::State& state, DType source, DType type, MatrixOrder order) {
  constexpr int64_t kInputs = 2048, kOutputs = 8192;
  const bool by_output = order == MatrixOrder::kOutputRows;
  const std::vector<char> bytes(kInputs * kOutputs * size_bytes(source), 0x11);
  const DenseStack stack = {{bytes.data(), source, by_output ? kOutputs : kInputs,
                             by_output ? kInputs : kOutputs, order}};
  const int64_t panels = panel_count(kOutputs);
  const Buffer packed = host_device().allocate(
      static_cast<size_t>(panels * panel_elements(type, kInputs)) * size_bytes(type));
  for (auto _ : state) {
    pack(stack, type, packed.data(), {0, panels});
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(bytes.size()));
}

// The four products of BERT-base, and one row over 512 MB of weights, more than any cache holds.
std::vector<std::pair<Shape, DType>> shapes() {
  std::vector<std::pair<Shape, DType>> all;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const int64_t rows : {8, 32, 128, 384, 1024}) {
      for (const auto& [inputs, outputs] :
           {std::pair{768, 768}, {768, 2304}, {768, 3072}, {3072, 768}}) {
        all.push_back({{rows, inputs, outputs}, type});
      }
    }
    all.push_back({{1, 2048, type == DType::kF32 ? 65536 : 131072}, type});
  }
  return all;
}

[[maybe_unused]] const bool kRegistered = [] {
  for (const auto& [shape, type] : shapes()) {
    for (const KernelRow<Args>& row : kernels.rows()) {
      if (!hardware_has(row.isa) || std::string(row.name) == "ref") continue;
      const std::string label = std::to_string(shape.rows) + "x" + std::to_string(shape.inputs) +
                                "x" + std::to_string(shape.outputs) + "/" +
                                std::string(name(type)) + "/" + row.name;
      benchmark::RegisterBenchmark(label.c_str(), run_row, row, shape, type);
    }
  }
  for (const DType source : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      for (const MatrixOrder order : {MatrixOrder::kOutputRows, MatrixOrder::kInputRows}) {
        const std::string label =
            "pack/" + std::string(name(source)) + "_to_" + std::string(name(type)) +
            (order == MatrixOrder::kOutputRows ? "/output_rows" : "/input_rows");
        benchmark::RegisterBenchmark(label.c_str(), run_pack, source, type, order);
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace tessera::matmul
