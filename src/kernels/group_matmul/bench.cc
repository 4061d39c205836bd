#include <benchmark/benchmark.h>

#include <cstring>
#include <string>

#include "base/device.h"
#include "kernels/group_matmul/group_matmul.h"

namespace tessera::group_matmul {
namespace {

struct Shape {
  int64_t rows, inputs, outputs;
};

void run_row(benchmark::State& state, const KernelRow<Args>& row, Shape shape, int32_t bits,
             RowForm form) {
  const Layout layout{
      .blocks = input_blocks(shape.inputs, 32), .bits = bits, .outputs = shape.outputs};
  const int64_t panels = panel_count(layout);
  const Buffer packed = host_device().allocate(static_cast<size_t>(panels * panel_bytes(layout)));
  // 0x1111 is a small number as a scale of f16.
  std::memset(packed.data(), 0x11, packed.size_bytes());
  const auto bytes = static_cast<size_t>(integer_rows_bytes(layout.blocks, form, shape.rows));
  const Buffer rows = host_device().allocate(bytes);
  std::memset(rows.data(), 0x11, rows.size_bytes());
  const IntegerRows x = integer_rows(layout.blocks, form, shape.rows, rows.data());
  std::vector<float> y(static_cast<size_t>(shape.rows * shape.outputs));
  const Args args{.x = x,
                  .rows = shape.rows,
                  .weights = layout,
                  .panels = packed.data(),
                  .y = y.data(),
                  .y_stride = shape.outputs};
  if (row.refuse(args) != nullptr) return state.SkipWithError(row.refuse(args));
  for (auto _ : state) {
    row.run(args, {0, panels});
    benchmark::ClobberMemory();
  }
  const double flops = 2.0 * static_cast<double>(shape.rows * shape.inputs * shape.outputs);
  state.counters["flops"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(packed.size_bytes()));
}

[[maybe_unused]] const bool kRegistered = [] {
  // Within the L2 cache, and one row over more than any cache holds.
  for (const Shape& shape : {Shape{1, 1024, 1024},
                             {2, 1024, 1024},
                             {4, 1024, 1024},
                             {8, 1024, 1024},
                             {32, 1024, 1024},
                             {128, 1024, 1024},
                             {1, 2048, 524288}}) {
    for (const int32_t bits : {8, 4}) {
      for (const auto& [form, name] :
           {std::pair{RowForm::k16, "16"}, {RowForm::k16Split, "16split"}, {RowForm::k8, "8"}}) {
        for (const KernelRow<Args>& row : kernels.rows()) {
          if (!hardware_has(row.isa) || std::string(row.name) == "ref") continue;
          if (form != RowForm::k16 && std::string(row.name) != "avx512_vnni") continue;
          const std::string label = std::to_string(shape.rows) + "x" +
                                    std::to_string(shape.inputs) + "x" +
                                    std::to_string(shape.outputs) + "/w" + std::to_string(bits) +
                                    "/x" + name + "/" + row.name;
          benchmark::RegisterBenchmark(label.c_str(), run_row, row, shape, bits, form);
        }
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace tessera::group_matmul
