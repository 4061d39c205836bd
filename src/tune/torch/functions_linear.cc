#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "tune/torch/functions.h"
#include "tune/torch/products.h"
#include "tune/torch/pruned_products.h"
#include "tune/torch/rounded.h"

namespace tessera::training {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr auto kTransposed = Operand::Read::kTransposed;

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

Rows rows_of(const Tensor& tensor) {
  return {tensor.data_ptr<float>(), tensor.size(0), tensor.size(1)};
}

// What a pruned weight's forward and backward pass share.
struct Pruned : torch::CustomClassHolder {
  explicit Pruned(const TileMask& of) : mask(of), products(PrunedProducts::of(of)) {}

  const TileMask& mask;  // stays while a backward pass may come
  std::optional<PrunedProducts> products;
};

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  enum Input { kX, kWeight, kBias };

  // pruned: null where the weight has no mask.
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const c10::optional<Tensor>& bias,
                        const c10::intrusive_ptr<Pruned>& pruned) {
    const Tensor rows = x.contiguous(), matrix = weight.contiguous();
    context->save_for_backward(
        {weight.requires_grad() ? rows : Tensor(), x.requires_grad() ? matrix : Tensor()});
    if (pruned) context->saved_data["pruned"] = at::IValue::make_capsule(pruned);
    context->saved_data["bias"] = bias.has_value();
    Tensor y = at::empty({x.size(0), weight.size(0)});
    if (pruned && pruned->products) {
      const Tensor added = bias.has_value() ? bias->contiguous() : Tensor();
      pruned->products->forward(rows_of(rows), matrix.data_ptr<float>(),
                                bias.has_value() ? added.data_ptr<float>() : nullptr, rows_of(y));
      return y;
    }
    if (bias.has_value()) y.copy_(bias->expand_as(y));
    multiply({x.size(0), weight.size(0), x.size(1), read(rows), read(matrix, kTransposed),
              y.data_ptr<float>(), y.size(1), 1, bias.has_value() ? 1.0f : 0.0f});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Tensor dy = gradients[0].contiguous();
    const variable_list saved = context->get_saved_variables();
    c10::intrusive_ptr<Pruned> pruned;
    if (const auto kept = context->saved_data.find("pruned"); kept != context->saved_data.end()) {
      pruned = c10::static_intrusive_pointer_cast<Pruned>(kept->second.toCapsule());
    }
    variable_list results(4);
    if (context->needs_input_grad(kX)) {
      results[kX] = input_gradient(dy, saved[1], pruned.get());
    }
    if (context->needs_input_grad(kWeight)) {
      results[kWeight] = weight_gradient(dy, saved[0], pruned.get());
    }
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(kBias)) {
      results[kBias] = dy.sum(0);
    }
    return results;
  }

 private:
  static Tensor input_gradient(const Tensor& dy, const Tensor& weight, const Pruned* pruned) {
    if (pruned == nullptr || !pruned->products) {
      return product(dy.size(0), weight.size(1), dy.size(1), read(dy), read(weight));
    }
    Tensor dx = at::empty({dy.size(0), weight.size(1)});
    pruned->products->input_gradient(rows_of(dy), weight.data_ptr<float>(), rows_of(dx));
    return dx;
  }

  static Tensor weight_gradient(const Tensor& dy, const Tensor& x, const Pruned* pruned) {
    if (pruned != nullptr && pruned->products) {
      Tensor dw = at::zeros({dy.size(1), x.size(1)});
      pruned->products->weight_gradient(rows_of(dy), rows_of(x), dw.data_ptr<float>());
      return dw;
    }
    Tensor dw = product(dy.size(1), x.size(1), x.size(0), read(dy, kTransposed), read(x));
    if (pruned != nullptr) clear_pruned(pruned->mask, dw);
    return dw;
  }
};

}  // namespace

Tensor linear(const Tensor& x, const Parameter& weight, const Parameter* bias) {
  return linear(rounded_rows(x, weight), weight, rounded_values(weight), bias);
}

Tensor linear(const Tensor& x, const Parameter& weight, const Tensor& values,
              const Parameter* bias) {
  TORCH_CHECK(x.dim() == 2 && x.size(1) == weight.value.size(1), weight.name, ": expected rows of ",
              weight.value.size(1), " inputs, found ", x.sizes());
  const TileMask* mask = weight.mask.has_value() ? &*weight.mask : nullptr;
  TORCH_CHECK(
      mask == nullptr || (mask->rows == weight.value.size(0) && mask->cols == weight.value.size(1)),
      weight.name, ": its mask has another shape");
  const auto added = bias != nullptr ? c10::optional<Tensor>(bias->value) : c10::nullopt;
  c10::intrusive_ptr<Pruned> pruned;
  if (mask != nullptr) pruned = c10::make_intrusive<Pruned>(*mask);
  return LinearFunction::apply(x, values, added, pruned);
}

}  // namespace tessera::training
