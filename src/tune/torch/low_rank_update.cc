#include "tune/torch/low_rank_update.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "io/json.h"
#include "tune/options.h"
#include "tune/random.h"
#include "tune/torch/functions.h"
#include "tune/torch/products.h"

namespace tessera::training {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr auto kTransposed = Operand::Read::kTransposed;

// y = x W^T + b + n B^T with n = scale z A^T, where z is x or what is left of it. Backwards
//   dn = scale dy B,  dA = dn^T z,  dB = dy^T n,  dz = dn A,  dx = dy W, and dz where z is x
// Sums are made where the products are, as to add what has the size of y or x takes as long as the
// small products do.
class UpdatedLinear : public torch::autograd::Function<UpdatedLinear> {
 public:
  enum Input { kX, kLeft, kWeight, kBias, kDown, kUp, kScale, kInputs };
  enum Saved { kRead, kNarrow, kSavedWeight, kSavedDown, kSavedUp };

  // left: z, or none where that is x.
  static Tensor forward(AutogradContext* context, const Tensor& x,
                        const c10::optional<Tensor>& left, const Tensor& weight,
                        const c10::optional<Tensor>& bias, const Tensor& down, const Tensor& up,
                        double scale) {
    const Tensor rows = x.contiguous(), z = left ? left->contiguous() : rows;
    const Tensor narrow =
        product(z.size(0), down.size(0), z.size(1), read(z), read(down, kTransposed)).mul_(scale);
    Tensor y = at::empty({x.size(0), weight.size(0)});
    if (bias) y.copy_(bias->expand_as(y));
    multiply({y.size(0), y.size(1), x.size(1), read(rows), read(weight, kTransposed),
              y.data_ptr<float>(), y.size(1), 1, bias ? 1.0f : 0.0f});
    multiply({y.size(0), y.size(1), narrow.size(1), read(narrow), read(up, kTransposed),
              y.data_ptr<float>(), y.size(1), 1, 1});
    context->save_for_backward({z, narrow, weight, down, up});
    context->saved_data["scale"] = scale;
    context->saved_data["left"] = left.has_value();
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Tensor dy = gradients[0].contiguous();
    const variable_list saved = context->get_saved_variables();
    const Tensor &z = saved[kRead], &down = saved[kSavedDown], &up = saved[kSavedUp];
    const Tensor narrow = product(dy.size(0), up.size(1), dy.size(1), read(dy), read(up))
                              .mul_(context->saved_data["scale"].toDouble());
    variable_list results(kInputs);
    results[kDown] =
        product(down.size(0), down.size(1), z.size(0), read(narrow, kTransposed), read(z));
    results[kUp] =
        product(up.size(0), up.size(1), dy.size(0), read(dy, kTransposed), read(saved[kNarrow]));
    const bool has_left = context->saved_data["left"].toBool();
    if (has_left && context->needs_input_grad(kLeft))
      results[kLeft] = product(z.size(0), z.size(1), down.size(0), read(narrow), read(down));
    if (!context->needs_input_grad(kX)) return results;
    const Tensor& weight = saved[kSavedWeight];
    results[kX] = product(dy.size(0), weight.size(1), dy.size(1), read(dy), read(weight));
    if (!has_left) {
      multiply({z.size(0), z.size(1), down.size(0), read(narrow), read(down),
                results[kX].data_ptr<float>(), z.size(1), 1, 1});
    }
    return results;
  }
};

// D = M o (W + scale B A). Backwards, of a gradient that is 0 where M prunes:
//   dA = scale B^T dD,  dB = scale dD A^T
class UpdatedValues : public torch::autograd::Function<UpdatedValues> {
 public:
  enum Input { kBase, kDown, kUp, kScale, kMask, kInputs };

  static Tensor forward(AutogradContext* context, const Tensor& base, const Tensor& down,
                        const Tensor& up, double scale, const TileMask* mask) {
    context->save_for_backward({down, up});
    context->saved_data["scale"] = scale;
    Tensor values = base.clone();
    multiply({up.size(0), down.size(1), down.size(0), read(up), read(down),
              values.data_ptr<float>(), values.size(1), static_cast<float>(scale), 1});
    if (mask != nullptr) clear_pruned(*mask, sizeof(float), values.data_ptr<float>());
    return values;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const Tensor gradient = gradients[0].contiguous();
    const variable_list saved = context->get_saved_variables();
    const Tensor &down = saved[0], &up = saved[1];
    const auto scale = static_cast<float>(context->saved_data["scale"].toDouble());
    variable_list results(kInputs);
    results[kDown] = at::empty_like(down);
    multiply({down.size(0), down.size(1), up.size(0), read(up, kTransposed), read(gradient),
              results[kDown].data_ptr<float>(), down.size(1), scale});
    results[kUp] = at::empty_like(up);
    multiply({up.size(0), up.size(1), down.size(1), read(gradient), read(down, kTransposed),
              results[kUp].data_ptr<float>(), up.size(1), scale});
    return results;
  }
};

// base: of the weight's shape.
Tensor values_with(const Tensor& base, const Parameter& weight) {
  const LowRankUpdate& update = *weight.update;
  const TileMask* mask = weight.mask ? &*weight.mask : nullptr;
  return UpdatedValues::apply(base, update.down->value, update.up->value, double{update.scale},
                              mask);
}

Tensor drop(const Tensor& x, double share) { return share > 0 ? at::dropout(x, share, true) : x; }

Parameter& add(TrainedModel& model, const std::string& name, Tensor value) {
  Parameter& added = model.updates.emplace_back();
  added.name = name;
  added.value = std::move(value);
  added.value.set_requires_grad(true);
  return added;
}

// PEFT's kaiming_uniform_ with a = sqrt(5), of which the bound is sqrt(6 / (1 + 5) / inputs).
Tensor first_down(int64_t rank, int64_t inputs, Random random) {
  Tensor values = at::empty({rank, inputs});
  const double bound = 1 / std::sqrt(static_cast<double>(inputs));
  float* numbers = values.data_ptr<float>();
  for (int64_t i = 0; i < values.numel(); ++i)
    numbers[i] = static_cast<float>((2 * random.uniform() - 1) * bound);
  return values;
}

Status check(const LoraOptions& options, const TrainedModel::Stored& stored) {
  const Item& item = stored.matrix.item;
  if (options.rank > std::min(item.tensor_outputs, item.inputs)) {
    return invalid_input(
        fmt::format("lora: expected a rank of at most {}, as tensor {} of {} x {} has, found {}: "
                    "without lora fewer numbers are trained",
                    std::min(item.tensor_outputs, item.inputs), quote(item.tensor),
                    item.tensor_outputs, item.inputs, options.rank));
  }
  if (!stored.weight->rounding || options.output == LoraOptions::Output::kAdapter) return {};
  return unsupported(fmt::format(
      "tensor {}: expected a matrix of floats to merge an update into, found one of integers: keep "
      "the adapter, and merge it into the model that this one was made from",
      quote(item.name())));
}

}  // namespace

std::vector<std::string> usual_updates(TuneTask task) {
  std::vector<std::string> chosen = {"qkv", "attention_output", "ffn"};
  const bool has_own_labels = task == TuneTask::kClassification || task == TuneTask::kRegression ||
                              task == TuneTask::kTokenClassification ||
                              task == TuneTask::kQuestionAnswering;
  if (has_own_labels) chosen.emplace_back("head");
  return chosen;
}

Status add_updates(const LoraOptions& options, uint64_t seed, TrainedModel& model) {
  std::map<std::string, Parameter*> downs;  // by tensor
  for (TrainedModel::Stored& stored : model.matrices) {
    if (!stored.weight->is_trained()) continue;
    TESSERA_RETURN_IF_ERROR(check(options, stored));
    const Item& item = stored.matrix.item;
    Parameter*& down = downs[item.tensor];
    if (down == nullptr) {
      Random random(seed, Random::Use::kUpdates, static_cast<int64_t>(downs.size()));
      down = &add(model, item.tensor + ".lora_A", first_down(options.rank, item.inputs, random));
    }
    Parameter& up = add(model, item.name() + ".lora_B", at::zeros({item.outputs, options.rank}));
    stored.weight->value.set_requires_grad(false);
    stored.weight->update = {down, &up, static_cast<float>(lora_alpha(options) / options.rank)};
  }
  if (!model.updates.empty()) return {};
  return invalid_input(
      "train: expected with lora one matrix of the layers at least, found none: choose some of "
      "qkv, "
      "query, key, value, attention_output, ffn");
}

Tensor updated_linear(const Tensor& x, const Parameter& weight, const Parameter* bias,
                      double dropout) {
  if (!weight.update) return linear(x, weight, bias);
  const LowRankUpdate& update = *weight.update;
  if (!weight.mask) {
    const auto left = dropout > 0 ? c10::optional<Tensor>(drop(x, dropout)) : c10::nullopt;
    const auto added = bias != nullptr ? c10::optional<Tensor>(bias->value) : c10::nullopt;
    return UpdatedLinear::apply(x, left, weight.value, added, update.down->value, update.up->value,
                                double{update.scale});
  }
  if (dropout == 0) return linear(x, weight, updated_values(weight), bias);
  const Tensor added = values_with(at::zeros_like(weight.value), weight);
  return linear(x, weight, bias) + linear(drop(x, dropout), weight, added, nullptr);
}

Tensor updated_values(const Parameter& weight) {
  return weight.update ? values_with(weight.value, weight) : weight.value;
}

}  // namespace tessera::training
