#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "base/device.h"
#include "formats/panels.h"
#include "kernels/matmul/matmul.h"
#include "linear/formats.h"
#include "linear/grid.h"

namespace tessera {
namespace {

class Dense final : public Linear {
 public:
  Dense(matmul::Args shape, Buffer panels, Buffer bias)
      : shape_(shape), panels_(std::move(panels)), bias_(std::move(bias)) {
    shape_.panels = panels_.data();
    shape_.bias = bias_.as<float>();
  }

  LinearInfo info() const override {
    matmul::Args one = shape_, many = shape_;
    one.rows = 1;
    many.rows = 128;
    const std::string first = matmul::kernels.select(one).name;
    const std::string second = matmul::kernels.select(many).name;
    LinearInfo info;
    info.format = shape_.weight_type == DType::kF32 ? "dense f32" : "dense bf16";
    info.kernel = first == second ? fmt::format("matmul:{}", first)
                                  : fmt::format("matmul:{}, many rows matmul:{}", first, second);
    info.why = matmul::kernels.why(many);
    info.inputs = shape_.inputs;
    info.outputs = shape_.outputs;
    info.bytes = static_cast<int64_t>(panels_.size_bytes() + bias_.size_bytes());
    info.flops_per_row = info.dense_flops_per_row = 2 * shape_.inputs * shape_.outputs;
    return info;
  }

  void apply(const LinearArgs& args, const Team::Member& member) const override {
    const int64_t panels = panel_count(shape_.outputs);
    const Grid grid = choose_grid(args.rows, panels, member.size());
    const Range rows =
        slice(args.rows, kRowGrain, member.rank() / grid.panel_parts, grid.row_parts);
    const Range part = slice(panels, 1, member.rank() % grid.panel_parts, grid.panel_parts);
    if (rows.size() > 0 && part.size() > 0) multiply(args, rows, part);
  }

  void apply_alone(const LinearArgs& args) const override {
    if (args.rows > 0) multiply(args, {0, args.rows}, {0, panel_count(shape_.outputs)});
  }

 private:
  void multiply(const LinearArgs& args, Range rows, Range part) const {
    matmul::Args product = shape_;
    take_rows(args, rows, product);
    matmul::kernels.run(product, {part.begin, part.end});
  }

  matmul::Args shape_;
  Buffer panels_;
  Buffer bias_;
};

bool is_weight_type(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

// Checks the stack and gives inputs and the sum of outputs in a shape without pointers.
Result<matmul::Args> check(const DenseStack& weights, DType stored) {
  if (stored != DType::kF32 && stored != DType::kBF16) {
    return unsupported(fmt::format(
        "A dense linear map is stored as F32 or BF16, but {} was asked for.", name(stored)));
  }
  if (weights.empty()) {
    return invalid_input("A dense linear map needs at least one matrix, but the stack is empty.");
  }
  // The bytes of two such sizes' product fit 63 bits.
  constexpr int64_t kLargest = int64_t{1} << 30;
  matmul::Args shape;
  shape.weight_type = stored;
  shape.inputs = weights.front().inputs();
  for (const DenseView& matrix : weights) {
    if (matrix.data == nullptr || !is_weight_type(matrix.dtype)) {
      return unsupported(
          fmt::format("A dense matrix must hold F32, F16 or BF16 values, but found {}.",
                      matrix.data == nullptr ? "none" : name(matrix.dtype)));
    }
    if (matrix.rows < 1 || matrix.cols < 1 || matrix.rows > kLargest || matrix.cols > kLargest) {
      return invalid_input(
          fmt::format("A dense matrix must have 1 to {} rows and columns, but found {} x {}.",
                      kLargest, matrix.rows, matrix.cols));
    }
    if (matrix.inputs() != shape.inputs) {
      return invalid_input(
          fmt::format("Matrices of one linear map must have equal inputs: expected {}, found {}.",
                      shape.inputs, matrix.inputs()));
    }
    shape.outputs += matrix.outputs();
    if (shape.outputs > kLargest) {
      return invalid_input(
          fmt::format("A linear map can have {} outputs, but found more.", kLargest));
    }
  }
  return shape;
}

Result<Buffer> allocate(int64_t size_bytes) {
  Buffer buffer = weights_device().allocate(static_cast<size_t>(size_bytes));
  if (buffer.empty()) {
    return out_of_memory(
        fmt::format("Packing a linear map needs {} bytes, which could not be had.", size_bytes));
  }
  return buffer;
}

}  // namespace

Result<std::unique_ptr<Linear>> prepare_dense(const DenseStack& weights, const float* bias,
                                              DType stored, Team& team) {
  try {
    TESSERA_ASSIGN_OR_RETURN(matmul::Args shape, check(weights, stored));
    const int64_t panels = panel_count(shape.outputs);
    const int64_t bytes =
        panels * panel_elements(stored, shape.inputs) * static_cast<int64_t>(size_bytes(stored));
    TESSERA_ASSIGN_OR_RETURN(Buffer packed, allocate(bytes));
    Buffer padded_bias;
    if (bias != nullptr) {
      const int64_t padded = panels * kPanelOutputs;
      TESSERA_ASSIGN_OR_RETURN(padded_bias, allocate(padded * int64_t{sizeof(float)}));
      float* end = std::copy(bias, bias + shape.outputs, padded_bias.as<float>());
      std::fill(end, padded_bias.as<float>() + padded, 0.0f);
    }
    team.parallel_for(panels, 1, [&](Range part) {
      matmul::pack(weights, stored, packed.data(), {part.begin, part.end});
    });
    return std::unique_ptr<Linear>(
        std::make_unique<Dense>(shape, std::move(packed), std::move(padded_bias)));
  } catch (const std::bad_alloc&) {
    return out_of_memory("Packing a linear map ran out of memory.");
  }
}

}  // namespace tessera
