#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "formats/panels.h"
#include "formats/tiles.h"
#include "kernels/bf16_matmul/bf16_matmul.h"
#include "kernels/matmul/matmul.h"
#include "kernels/rows_to_bf16/rows_to_bf16.h"
#include "linear/formats.h"
#include "linear/grid.h"
#include "linear/subset.h"

namespace tessera {
namespace {

// Rows are dealt in tiles of AMX, two of them.
constexpr int64_t kBf16RowGrain = 32;

// Why rows stay f32, however many; null where bf16 rows are allowed and faster.
const char* refuse_bf16_rows(Precision precision) {
  if (precision != Precision::kBF16) return "exact, unless bf16 is asked for";
  if (!forced_kernel(bf16_matmul::kernels.name()).empty()) return nullptr;
  if (!forced_kernel(matmul::kernels.name()).empty()) return "TESSERA_KERNEL names a kernel of f32";
  return bf16_matmul::refuse_cpu();
}

// Elements from row to row of bf16 rows: whole cache lines, an odd number of them, so that the rows
// of a register tile do not share one set of the L1 cache.
int64_t bf16_stride(int64_t inputs) {
  const int64_t lines = (inputs + rows_to_bf16::kMultiple - 1) / rows_to_bf16::kMultiple;
  return (lines | 1) * rows_to_bf16::kMultiple;
}

class Dense final : public Linear {
 public:
  Dense(const matmul::Args& shape, const LinearChoices& choices, Buffer panels, Buffer bias)
      : shape_(shape),
        refusal_(refuse_bf16_rows(choices.precision)),
        bf16_rows_from_(choices.bf16_rows_from),
        panels_(std::move(panels)),
        bias_(std::move(bias)) {
    shape_.l2_bytes = choices.l2_bytes;
    shape_.panels = panels_.data();
    shape_.bias = bias_.as<float>();
  }

  LinearInfo info() const override {
    matmul::Args one = shape_, many = shape_;
    one.rows = 1;
    many.rows = 128;
    LinearInfo info;
    const std::string first = fmt::format("matmul:{}", matmul::kernels.select(one).name);
    std::string second = fmt::format("matmul:{}", matmul::kernels.select(many).name);
    info.why = matmul::kernels.why(many);
    if (rounds(many.rows)) {
      const bf16_matmul::Args rounded{.rows = many.rows, .inputs = many.inputs};
      second = fmt::format("bf16_matmul:{}", bf16_matmul::kernels.select(rounded).name);
      info.why = bf16_matmul::kernels.why(rounded);
    } else if (shape_.weight_type == DType::kBF16) {
      info.why += fmt::format("; rows stay f32: {}", refusal_);
    }
    info.format = shape_.weight_type == DType::kF32 ? "dense f32" : "dense bf16";
    info.kernel = first == second ? first : fmt::format("{}, many rows {}", first, second);
    info.inputs = shape_.inputs;
    info.outputs = shape_.outputs;
    info.bytes = static_cast<int64_t>(panels_.size_bytes() + bias_.size_bytes());
    info.flops_per_row = info.dense_flops_per_row = 2 * shape_.inputs * shape_.outputs;
    return info;
  }

  double share(const LinearArgs& args) const override {
    return panel_share(args, shape_.inputs, shape_.outputs, units(args.rows));
  }

  int64_t converted_bytes(int64_t rows) const override {
    return rounds(rows) ? rows * bf16_stride(shape_.inputs) * int64_t{sizeof(uint16_t)} : 0;
  }

  void convert_rows(const LinearArgs& args, Range part, void* target) const override {
    if (!rounds(args.rows)) return;
    rows_to_bf16::kernels.run({.x = args.x,
                               .x_stride = args.x_stride,
                               .inputs = shape_.inputs,
                               .y = static_cast<uint16_t*>(target),
                               .y_stride = bf16_stride(shape_.inputs)},
                              {part.begin, part.end});
  }

  void apply(const LinearArgs& args, const Team::Member& member) const override {
    share_live(args, shape_.outputs, rounds(args.rows) ? kBf16RowGrain : kRowGrain, member,
               [&](Range rows, Range part) { multiply(args, rows, part); });
  }

  void apply_alone(const LinearArgs& args) const override {
    if (args.rows == 0) return;
    run_live(args, shape_.outputs, [&](Range rows, Range part) { multiply(args, rows, part); });
  }

 private:
  bool rounds(int64_t rows) const { return refusal_ == nullptr && rows >= bf16_rows_from_; }
  InputUnits units(int64_t rows) const {
    return {.lane = rounds(rows) ? 2 : 1, .unit = shape_.weight_type == DType::kF32 ? 16 : 32};
  }

  void multiply(const LinearArgs& args, Range rows, Range part) const {
    matmul::Args product = shape_;
    take_rows(args, rows, product);
    const InputParts parts(args.inputs, shape_.inputs, units(args.rows));
    if (!rounds(args.rows)) {
      product.input_parts = parts.data();
      product.input_part_count = parts.size();
      return matmul::kernels.run(product, {part.begin, part.end});
    }
    const int64_t stride = bf16_stride(shape_.inputs);
    bf16_matmul::kernels.run(
        {.x = static_cast<const uint16_t*>(args.converted) + rows.begin * stride,
         .x_stride = stride,
         .rows = product.rows,
         .inputs = product.inputs,
         .panels = product.panels,
         .outputs = product.outputs,
         .bias = product.bias,
         .activation = product.activation,
         .residual = product.residual,
         .residual_stride = product.residual_stride,
         .y = product.y,
         .y_stride = product.y_stride,
         .l2_bytes = product.l2_bytes,
         .pair_parts = parts.data(),
         .pair_part_count = parts.size()},
        {part.begin, part.end});
  }

  matmul::Args shape_;
  const char* refusal_;  // why rows stay f32; null: many are rounded to bf16
  int64_t bf16_rows_from_;
  Buffer panels_;
  Buffer bias_;
};

// Checks the stack and gives inputs and the sum of outputs in a shape without pointers.
Result<matmul::Args> check(const DenseStack& weights, Precision precision) {
  if (is_quantized(precision)) {
    return unsupported(fmt::format("A dense linear map is of f32 or bf16, but {} was asked for.",
                                   name(precision)));
  }
  if (weights.empty()) {
    return invalid_input("A dense linear map needs at least one matrix, but the stack is empty.");
  }
  matmul::Args shape;
  shape.weight_type = float_type(precision, weights.front().dtype);
  shape.inputs = weights.front().inputs();
  for (const DenseView& matrix : weights) {
    if (matrix.data == nullptr || !is_weight_type(matrix.dtype)) {
      return unsupported(
          fmt::format("A dense matrix must hold F32, F16 or BF16 values, but found {}.",
                      matrix.data == nullptr ? "none" : name(matrix.dtype)));
    }
    if (matrix.rows < 1 || matrix.cols < 1 || matrix.rows > kMaxMatrixExtent ||
        matrix.cols > kMaxMatrixExtent) {
      return invalid_input(
          fmt::format("A dense matrix must have 1 to {} rows and columns, but found {} x {}.",
                      kMaxMatrixExtent, matrix.rows, matrix.cols));
    }
    if (matrix.inputs() != shape.inputs) {
      return invalid_input(
          fmt::format("Matrices of one linear map must have equal inputs: expected {}, found {}.",
                      shape.inputs, matrix.inputs()));
    }
    // Where the types differ, f32 holds them all.
    if (float_type(precision, matrix.dtype) == DType::kF32) shape.weight_type = DType::kF32;
    shape.outputs += matrix.outputs();
    if (shape.outputs > kMaxMatrixExtent) {
      return invalid_input(
          fmt::format("A linear map can have {} outputs, but found more.", kMaxMatrixExtent));
    }
  }
  return shape;
}

}  // namespace

Result<std::unique_ptr<Linear>> prepare_dense(const DenseStack& weights, const float* bias,
                                              const LinearChoices& choices, Team& team) {
  try {
    TESSERA_ASSIGN_OR_RETURN(const matmul::Args shape, check(weights, choices.precision));
    const DType stored = shape.weight_type;
    const int64_t panels = panel_count(shape.outputs);
    const int64_t bytes =
        panels * panel_elements(stored, shape.inputs) * static_cast<int64_t>(size_bytes(stored));
    TESSERA_ASSIGN_OR_RETURN(Buffer packed, allocate_packed(bytes));
    Buffer padded_bias;
    if (bias != nullptr) {
      const int64_t padded = panels * kPanelOutputs;
      TESSERA_ASSIGN_OR_RETURN(padded_bias, allocate_packed(padded * int64_t{sizeof(float)}));
      float* end = std::copy(bias, bias + shape.outputs, padded_bias.as<float>());
      std::fill(end, padded_bias.as<float>() + padded, 0.0f);
    }
    team.parallel_for(panels, 1, [&](Range part) {
      matmul::pack(weights, stored, packed.data(), {part.begin, part.end});
    });
    return std::unique_ptr<Linear>(
        std::make_unique<Dense>(shape, choices, std::move(packed), std::move(padded_bias)));
  } catch (const std::bad_alloc&) {
    return out_of_memory("Packing a linear map ran out of memory.");
  }
}

constinit const LinearFormat linear_formats::dense = {
    .convert = [](Preparation& preparation,
                  StoredMatrix& matrix) { return preparation.round(matrix); },
    .joins = [](const StoredMatrix&, const StoredMatrix&) { return true; },
    .prepare =
        [](Preparation& preparation, Run& run, const float* bias) {
          return prepare_dense(run.all_of<DenseView>(), bias, preparation.choices(),
                               preparation.team());
        },
};

}  // namespace tessera
