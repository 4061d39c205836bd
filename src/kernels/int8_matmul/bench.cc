#include <benchmark/benchmark.h>

#include <random>
#include <string>

#include "base/device.h"
#include "formats/panels.h"
#include "kernels/int8_matmul/int8_matmul.h"

namespace tessera::int8_matmul {
namespace {

struct Shape {
  int64_t rows, inputs, outputs;
};

Buffer random_bytes(int64_t count) {
  Buffer bytes = host_device().allocate(static_cast<size_t>(count));
  std::minstd_rand generator(1);
  for (int64_t i = 0; i < count; ++i) {
    bytes.as<uint8_t>()[i] = static_cast<uint8_t>(generator() >> 8);
  }
  return bytes;
}

void run_row(benchmark::State& state, const KernelRow<Args>& row, Shape shape) {
  const int64_t panels = panel_count(shape.outputs);
  const Buffer values = random_bytes(panels * panel_bytes(shape.inputs));
  const U8RowsLayout layout = u8_rows_layout(shape.rows, shape.inputs);
  const Buffer x = random_bytes(layout.bytes);
  const auto outputs = static_cast<size_t>(panels * kPanelOutputs);
  const std::vector<float> scales(outputs, 1e-4f), bias(outputs, 0.1f);
  const std::vector<float> row_scales(static_cast<size_t>(shape.rows), 1e-4f);
  const std::vector<int32_t> sums(outputs, 3), zeros(static_cast<size_t>(shape.rows), 100);
  std::vector<float> y(static_cast<size_t>(shape.rows * shape.outputs));
  const Args args{.x = {x.as<uint8_t>(), layout.stride, row_scales.data(), zeros.data()},
                  .rows = shape.rows,
                  .inputs = shape.inputs,
                  .panels = values.as<int8_t>(),
                  .outputs = shape.outputs,
                  .scales = scales.data(),
                  .sums = sums.data(),
                  .bias = bias.data(),
                  .y = y.data(),
                  .y_stride = shape.outputs};
  for (auto _ : state) {
    row.run(args, {0, panels});
    benchmark::ClobberMemory();
  }
  const double operations = 2.0 * static_cast<double>(shape.rows * shape.inputs * shape.outputs);
  state.counters["operations"] =
      benchmark::Counter(operations, benchmark::Counter::kIsIterationInvariantRate);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(values.size_bytes()));
}

// The four products of BERT-base, and few rows over 256 MB of weights, more than most caches hold.
[[maybe_unused]] const bool kRegistered = [] {
  std::vector<Shape> shapes;
  for (const int64_t rows : {8, 32, 128, 384, 1024}) {
    for (const auto& [inputs, outputs] :
         {std::pair{768, 768}, {768, 2304}, {768, 3072}, {3072, 768}}) {
      shapes.push_back({rows, inputs, outputs});
    }
  }
  for (const int64_t rows : {1, 2, 4}) shapes.push_back({rows, 2048, 131072});
  for (const Shape& shape : shapes) {
    for (const KernelRow<Args>& row : kernels.rows()) {
      if (!hardware_has(row.isa) || std::string(row.name) == "ref") continue;
      const std::string label = std::to_string(shape.rows) + "x" + std::to_string(shape.inputs) +
                                "x" + std::to_string(shape.outputs) + "/" + row.name;
      benchmark::RegisterBenchmark(label.c_str(), run_row, row, shape);
    }
  }
  return true;
}();

}  // namespace
}  // namespace tessera::int8_matmul
