#include <fmt/format.h>

#include <algorithm>

#include "formats/panels.h"
#include "kernels/int8_matmul/int8_matmul.h"
#include "linear/formats.h"
#include "linear/grid.h"
#include "linear/u8_rows.h"

namespace tessera {
namespace {

// What a map owns: all but the shape of its product.
struct Memory {
  Buffer panels, scales, sums;
  Buffer bias;         // may be empty
  Buffer multipliers;  // of the inputs; may be empty

  int64_t bytes() const {
    return static_cast<int64_t>(panels.size_bytes() + scales.size_bytes() + sums.size_bytes() +
                                bias.size_bytes() + multipliers.size_bytes());
  }
};

class Int8 final : public Linear {
 public:
  Int8(const int8_matmul::Args& shape, Memory memory) : shape_(shape), memory_(std::move(memory)) {
    shape_.panels = memory_.panels.as<int8_t>();
    shape_.scales = memory_.scales.as<float>();
    shape_.sums = memory_.sums.as<int32_t>();
    shape_.bias = memory_.bias.as<float>();
  }

  LinearInfo info() const override {
    int8_matmul::Args many = shape_;
    many.rows = 128;
    LinearInfo info;
    info.format = "dense int8";
    info.kernel = fmt::format("int8_matmul:{}", int8_matmul::kernels.select(many).name);
    info.why = int8_matmul::kernels.why(many);
    info.inputs = shape_.inputs;
    info.outputs = shape_.outputs;
    info.bytes = memory_.bytes();
    info.flops_per_row = info.dense_flops_per_row = 2 * shape_.inputs * shape_.outputs;
    return info;
  }

  int64_t converted_bytes(int64_t rows) const override {
    return u8_rows_layout(rows, shape_.inputs).bytes;
  }

  void convert_rows(const LinearArgs& args, Range part, void* target) const override {
    quantize_rows(args, part, {shape_.inputs, memory_.multipliers.as<float>()}, target);
  }

  void apply(const LinearArgs& args, const Team::Member& member) const override {
    const int64_t panels = panel_count(shape_.outputs);
    share_product({args.rows, kRowGrain, panels}, member,
                  [&](Range rows, Range part) { multiply(args, rows, part); });
  }

  void apply_alone(const LinearArgs& args) const override {
    multiply(args, {0, args.rows}, {0, panel_count(shape_.outputs)});
  }

 private:
  void multiply(const LinearArgs& args, Range rows, Range part) const {
    if (rows.size() <= 0 || part.size() <= 0) return;
    int8_matmul::Args product = shape_;
    product.x = u8_rows_part(args, rows, shape_.inputs);
    take_results(args, rows, product);
    int8_matmul::kernels.run(product, {part.begin, part.end});
  }

  int8_matmul::Args shape_;
  Memory memory_;
};

Result<Memory> allocate_all(const QuantizedMatrix& first, int64_t outputs, const float* bias) {
  const int64_t panels = panel_count(outputs), padded = panels * kPanelOutputs;
  Memory memory;
  TESSERA_ASSIGN_OR_RETURN(memory.panels,
                           allocate_packed(panels * int8_matmul::panel_bytes(first.inputs())));
  TESSERA_ASSIGN_OR_RETURN(memory.scales, allocate_packed(padded * int64_t{sizeof(float)}));
  TESSERA_ASSIGN_OR_RETURN(memory.sums, allocate_packed(padded * int64_t{sizeof(int32_t)}));
  if (bias != nullptr) {
    TESSERA_ASSIGN_OR_RETURN(memory.bias, allocate_packed(padded * int64_t{sizeof(float)}));
    float* end = std::copy(bias, bias + outputs, memory.bias.as<float>());
    std::fill(end, memory.bias.as<float>() + padded, 0.0f);
  }
  if (first.input_scales != nullptr) {
    TESSERA_ASSIGN_OR_RETURN(memory.multipliers,
                             allocate_packed(first.inputs() * int64_t{sizeof(float)}));
    std::transform(first.input_scales, first.input_scales + first.inputs(),
                   memory.multipliers.as<float>(), [](float scale) { return 1 / scale; });
  }
  return memory;
}

}  // namespace

Result<std::unique_ptr<Linear>> prepare_int8(const QuantizedStack& stack, const float* bias,
                                             const LinearChoices& choices, Team& team) {
  const int64_t inputs = stack.front().inputs();
  if (inputs > int8_matmul::kMaxInputs) {
    return unsupported(fmt::format(
        "A linear map of 8 bits can have {} inputs, whose sums fit 32 bits, but found {}.",
        int8_matmul::kMaxInputs, inputs));
  }
  int64_t outputs = 0;
  for (const QuantizedMatrix& matrix : stack) outputs += matrix.outputs();
  TESSERA_ASSIGN_OR_RETURN(Memory memory, allocate_all(stack.front(), outputs, bias));
  const int8_matmul::Packed packed{memory.panels.as<int8_t>(), memory.scales.as<float>(),
                                   memory.sums.as<int32_t>()};
  team.parallel_for(panel_count(outputs), 1, [&](Range part) {
    int8_matmul::pack(stack, packed, {part.begin, part.end});
  });
  int8_matmul::Args shape;
  shape.inputs = inputs;
  shape.outputs = outputs;
  shape.l2_bytes = choices.l2_bytes;
  return std::unique_ptr<Linear>(std::make_unique<Int8>(shape, std::move(memory)));
}

}  // namespace tessera
