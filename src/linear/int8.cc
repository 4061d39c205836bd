#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <new>

#include "formats/panels.h"
#include "kernels/int8_matmul/int8_matmul.h"
#include "linear/formats.h"
#include "linear/grid.h"
#include "linear/subset.h"
#include "linear/u8_rows.h"

namespace tessera {
namespace {

// Parts of the inputs, as a kernel counts them, are whole blocks of inputs.
constexpr int64_t kBlockInputs = 64;
constexpr InputUnits kUnits = {.lane = 4, .unit = kBlockInputs};

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

  double share(const LinearArgs& args) const override {
    return panel_share(args, shape_.inputs, shape_.outputs, kUnits);
  }

  // The sums of a part of the inputs.
  int64_t scratch_bytes(int64_t /*rows*/) const override {
    return panel_count(shape_.outputs) * kPanelOutputs * int64_t{sizeof(int32_t)};
  }
  int64_t converted_bytes(int64_t rows) const override {
    return u8_rows_layout(rows, shape_.inputs).bytes;
  }

  void convert_rows(const LinearArgs& args, Range part, void* target) const override {
    quantize_rows(args, part, {shape_.inputs, memory_.multipliers.as<float>()}, target);
  }

  void apply(const LinearArgs& args, const Team::Member& member) const override {
    share_live(args, shape_.outputs, kRowGrain, member,
               [&](Range rows, Range part) { multiply(args, rows, part); });
  }

  void apply_alone(const LinearArgs& args) const override {
    run_live(args, shape_.outputs, [&](Range rows, Range part) { multiply(args, rows, part); });
  }

 private:
  void multiply(const LinearArgs& args, Range rows, Range part) const {
    if (rows.size() <= 0 || part.size() <= 0) return;
    int8_matmul::Args product = shape_;
    product.x = u8_rows_part(args, rows, shape_.inputs);
    take_results(args, rows, product);
    const InputParts parts(args.inputs, shape_.inputs, kUnits);
    if (parts.data() != nullptr && has_block_sums()) {
      product.four_parts = parts.data();
      product.four_part_count = parts.size();
      product.sums = sums_of(parts, part, static_cast<int32_t*>(args.scratch));
    }
    int8_matmul::kernels.run(product, {part.begin, part.end});
  }

  // Makes the sums of every block of inputs, [blocks][padded outputs], once they are first asked
  // for: few maps ever are. Without memory for them all inputs are read.
  bool has_block_sums() const {
    std::call_once(summed_, [&] {
      const int64_t outputs = panel_count(shape_.outputs) * kPanelOutputs;
      const int64_t blocks = u8_padded_inputs(shape_.inputs) / kBlockInputs;
      block_sums_.reset(new (std::nothrow) int32_t[static_cast<size_t>(blocks * outputs)]());
      if (block_sums_ == nullptr) return;
      for (int64_t n = 0; n < outputs; ++n) {
        const int8_t* weights = shape_.panels +
                                n / kPanelOutputs * int8_matmul::panel_bytes(shape_.inputs) +
                                n % kPanelOutputs * 4;
        for (int64_t k = 0; k < blocks * kBlockInputs; ++k)
          block_sums_[k / kBlockInputs * outputs + n] += weights[k / 4 * 4 * kPanelOutputs + k % 4];
      }
    });
    return block_sums_ != nullptr;
  }

  // The sums of these inputs for some panels, where the kernel looks for them.
  const int32_t* sums_of(const InputParts& parts, Range panels, int32_t* sums) const {
    const int64_t outputs = panel_count(shape_.outputs) * kPanelOutputs;
    const Range own{panels.begin * kPanelOutputs, panels.end * kPanelOutputs};
    std::fill(sums + own.begin, sums + own.end, 0);
    for (const Exec* part = parts.data(); part != parts.data() + parts.size(); ++part) {
      const int64_t begin = part->begin * kUnits.lane / kBlockInputs;
      const int64_t end = (part->end * kUnits.lane + kBlockInputs - 1) / kBlockInputs;
      for (int64_t block = begin; block < end; ++block) {
        const int32_t* of_block = block_sums_.get() + block * outputs;
        for (int64_t n = own.begin; n < own.end; ++n) sums[n] += of_block[n];
      }
    }
    return sums;
  }

  mutable std::once_flag summed_;
  mutable std::unique_ptr<int32_t[]> block_sums_;
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
