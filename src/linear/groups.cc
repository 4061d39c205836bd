#include <fmt/format.h>

#include <algorithm>

#include "kernels/group_matmul/group_matmul.h"
#include "kernels/quantize_rows_blockwise/quantize_rows_blockwise.h"
#include "linear/formats.h"
#include "linear/grid.h"

namespace tessera {
namespace {

// Values up to which every member rounds all rows for itself, which takes less than to wait until
// others have rounded their part.
constexpr int64_t kOwnValues = 16384;

// Rows up to which integers of 16 bits are split where a kernel takes them so: it unpacks weights
// once for both bytes, which is most of the work then. Among more rows that is none of it, and to
// put the bytes' sums together costs a tenth.
constexpr int64_t kFewRows = 2;

// Whether the kernel of rows of 16 bits takes this form too, so that a form is no way around a
// kernel that is forced. Nothing is faster for the last kernel, which takes every form.
bool takes(group_matmul::Args shape, RowForm form) {
  shape.x.form = RowForm::k16;
  const auto& kernel = group_matmul::kernels.select(shape);
  shape.x.form = form;
  return &kernel == &group_matmul::kernels.select(shape) &&
         &kernel != &group_matmul::kernels.rows().back();
}

RowForm form_of_few(const group_matmul::Args& shape) {
  if (shape.x.form == RowForm::k8) return RowForm::k8;
  return takes(shape, RowForm::k16Split) ? RowForm::k16Split : RowForm::k16;
}

class Groups final : public Linear {
 public:
  Groups(group_matmul::Args shape, Precision precision, Buffer panels)
      : shape_(shape),
        few_form_(form_of_few(shape)),
        precision_(precision),
        panels_(std::move(panels)) {
    shape_.panels = panels_.data();
  }

  void set_bias(const float* bias) {
    bias_.assign(bias, bias + shape_.weights.outputs);
    shape_.bias = bias_.data();
  }
  void set_input_scales(const float* scales) {
    for (int64_t k = 0; k < blocks().inputs; ++k) multipliers_.push_back(1 / scales[k]);
  }

  LinearInfo info() const override {
    const int64_t inputs = blocks().inputs, group = blocks().group;
    LinearInfo info;
    info.format = fmt::format("{} {}", name(precision_),
                              group == inputs ? std::string("with a scale for each output")
                                              : fmt::format("in groups of {}", group));
    info.kernel = fmt::format("group_matmul:{}", group_matmul::kernels.select(shape_).name);
    info.why = group_matmul::kernels.why(shape_);
    info.inputs = inputs;
    info.outputs = shape_.weights.outputs;
    info.bytes = static_cast<int64_t>(panels_.size_bytes() +
                                      (bias_.size() + multipliers_.size()) * sizeof(float));
    info.flops_per_row = info.dense_flops_per_row = 2 * info.inputs * info.outputs;
    return info;
  }

  // A call of fewer rows may round alone where one of so many does not.
  int64_t scratch_bytes(int64_t rows) const override {
    return rounded_bytes(std::min(rows, kOwnValues / blocks().inputs));
  }
  int64_t converted_bytes(int64_t rows) const override {
    return rounds_alone(rows) ? 0 : rounded_bytes(rows);
  }
  void convert_rows(const LinearArgs& args, Range part, void* target) const override {
    round(args, part, target);
  }

  void apply(const LinearArgs& args, const Team::Member& member) const override {
    if (args.rows == 0) return;
    const group_matmul::Args product = of(args);
    share_panels(args.rows, panels(), member, [&](Range part) {
      group_matmul::kernels.run(product, {part.begin, part.end});
    });
  }
  void apply_alone(const LinearArgs& args) const override {
    if (args.rows > 0) group_matmul::kernels.run(of(args), {0, panels()});
  }

 private:
  const InputBlocks& blocks() const { return shape_.weights.blocks; }
  int64_t panels() const { return group_matmul::panel_count(shape_.weights); }
  bool rounds_alone(int64_t rows) const { return rows * blocks().inputs <= kOwnValues; }
  RowForm form(int64_t rows) const { return rows <= kFewRows ? few_form_ : shape_.x.form; }
  // The bytes that a call of at most this many rows needs.
  int64_t rounded_bytes(int64_t rows) const {
    return std::max(integer_rows_bytes(blocks(), shape_.x.form, rows),
                    integer_rows_bytes(blocks(), few_form_, std::min(rows, kFewRows)));
  }

  IntegerRows round(const LinearArgs& args, Range part, void* target) const {
    const IntegerRows rows = integer_rows(blocks(), form(args.rows), args.rows, target);
    quantize_rows_blockwise::kernels.run(
        {.x = args.x,
         .x_stride = args.x_stride,
         .multipliers = multipliers_.empty() ? nullptr : multipliers_.data(),
         .blocks = blocks(),
         .rows = rows},
        {part.begin, part.end});
    return rows;
  }

  // The product of a call, its rows rounded.
  group_matmul::Args of(const LinearArgs& args) const {
    group_matmul::Args product = shape_;
    take_results(args, {0, args.rows}, product);
    // Shared rows are read, not written.
    product.x = rounds_alone(args.rows) ? round(args, {0, args.rows}, args.scratch)
                                        : integer_rows(blocks(), form(args.rows), args.rows,
                                                       const_cast<void*>(args.converted));
    return product;
  }

  group_matmul::Args shape_;  // with the form of many rows
  RowForm few_form_;
  Precision precision_;
  Buffer panels_;
  std::vector<float> bias_;
  std::vector<float> multipliers_;  // of the inputs, if any
};

// Rows of 8 bits where they are asked for and are multiplied faster, else of 16.
RowForm row_form(const group_matmul::Args& shape, Precision precision) {
  return has_integer_rows(precision) && takes(shape, RowForm::k8) ? RowForm::k8 : RowForm::k16;
}

group_matmul::Args shape_of(const QuantizedStack& stack) {
  const QuantizedMatrix& first = stack.front();
  group_matmul::Args shape;
  shape.weights.blocks = input_blocks(first.inputs(), first.group);
  shape.weights.bits = bits(first.precision);
  for (const QuantizedMatrix& matrix : stack) {
    shape.weights.outputs += matrix.outputs();
    if (matrix.scale_type == DType::kF32) shape.weights.scale_type = DType::kF32;
  }
  shape.x.form = row_form(shape, first.precision);
  return shape;
}

}  // namespace

Result<std::unique_ptr<Linear>> prepare_groups(const QuantizedStack& stack, const float* bias,
                                               const LinearChoices& choices, Team& team) {
  group_matmul::Args shape = shape_of(stack);
  shape.l2_bytes = choices.l2_bytes;
  const int64_t panels = group_matmul::panel_count(shape.weights);
  const int64_t bytes = panels * group_matmul::panel_bytes(shape.weights);
  TESSERA_ASSIGN_OR_RETURN(Buffer packed, allocate_packed(bytes));
  team.parallel_for(panels, 1, [&](Range part) {
    group_matmul::pack(stack, shape.weights, packed.data(), {part.begin, part.end});
  });
  auto map = std::make_unique<Groups>(shape, stack.front().precision, std::move(packed));
  if (bias != nullptr) map->set_bias(bias);
  if (stack.front().input_scales != nullptr) map->set_input_scales(stack.front().input_scales);
  return std::unique_ptr<Linear>(std::move(map));
}

}  // namespace tessera
