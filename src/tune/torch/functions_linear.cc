#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "tune/torch/functions.h"
#include "tune/torch/products.h"

namespace tessera::training {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr auto kTransposed = Operand::Read::kTransposed;

Operand read(const Tensor& tensor, Operand::Read how = Operand::Read::kAsStored) {
  return {tensor.data_ptr<float>(), tensor.size(1), how};
}

Tensor product(int64_t rows, int64_t cols, int64_t depth, Operand a, Operand b) {
  Tensor c = at::empty({rows, cols});
  multiply({rows, cols, depth, a, b, c.data_ptr<float>(), cols});
  return c;
}

// Sets what the mask does not keep to 0.
void clear_pruned(const TileMask& mask, Tensor& matrix) {
  float* values = matrix.data_ptr<float>();
  at::parallel_for(0, mask.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t tile = 0; tile < mask.tile_cols(); ++tile) {
        if (mask.keeps(row / mask.tile.rows, tile)) continue;
        const int64_t first = tile * mask.tile.cols;
        const int64_t last = std::min<int64_t>(first + mask.tile.cols, mask.cols);
        std::fill(values + row * mask.cols + first, values + row * mask.cols + last, 0.0f);
      }
    }
  });
}

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  enum Input { kX, kWeight, kBias };

  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const c10::optional<Tensor>& bias, const TileMask* mask) {
    const Tensor rows = x.contiguous(), matrix = weight.contiguous();
    context->save_for_backward(
        {weight.requires_grad() ? rows : Tensor(), x.requires_grad() ? matrix : Tensor()});
    context->saved_data["mask"] = reinterpret_cast<int64_t>(mask);
    context->saved_data["bias"] = bias.has_value();
    Tensor y = at::empty({x.size(0), weight.size(0)});
    if (bias.has_value()) y.copy_(bias->expand_as(y));
    multiply({x.size(0), weight.size(0), x.size(1), read(rows), read(matrix, kTransposed),
              y.data_ptr<float>(), y.size(1), 1, bias.has_value() ? 1.0f : 0.0f});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Tensor dy = gradients[0].contiguous();
    const variable_list saved = context->get_saved_variables();
    const auto* mask = reinterpret_cast<const TileMask*>(context->saved_data["mask"].toInt());
    variable_list results(4);
    if (context->needs_input_grad(kX)) {
      const Tensor& weight = saved[1];
      results[kX] = product(dy.size(0), weight.size(1), dy.size(1), read(dy), read(weight));
    }
    if (context->needs_input_grad(kWeight)) {
      const Tensor& x = saved[0];
      results[kWeight] = product(dy.size(1), x.size(1), x.size(0), read(dy, kTransposed), read(x));
      if (mask != nullptr) clear_pruned(*mask, results[kWeight]);
    }
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(kBias)) {
      results[kBias] = dy.sum(0);
    }
    return results;
  }
};

}  // namespace

Tensor linear(const Tensor& x, const Parameter& weight, const Parameter* bias) {
  TORCH_CHECK(x.dim() == 2 && x.size(1) == weight.value.size(1), weight.name, ": expected rows of ",
              weight.value.size(1), " inputs, found ", x.sizes());
  const TileMask* mask = weight.mask.has_value() ? &*weight.mask : nullptr;
  TORCH_CHECK(
      mask == nullptr || (mask->rows == weight.value.size(0) && mask->cols == weight.value.size(1)),
      weight.name, ": its mask has another shape");
  const auto added = bias != nullptr ? c10::optional<Tensor>(bias->value) : c10::nullopt;
  return LinearFunction::apply(x, weight.value, added, mask);
}

}  // namespace tessera::training
