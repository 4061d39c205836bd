#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compress/item.h"
#include "tune/torch/parameters.h"
#include "tune/torch/restrictions.h"

namespace tessera::training {

// Two layers with grouped heads, whose extents no tile of 16 x 16 divides.
inline Architecture toy_architecture() {
  Architecture architecture{.head = Head::kCausalLm, .hidden_size = 20, .vocabulary_size = 5};
  LayerRecord layer{.query_heads = 4, .kv_heads = 2, .head_size = 6, .ffn_size = 36};
  layer.ffn = Ffn::kPlain;
  layer.names.qkv = {{"{}.q", "{}.k", "{}.v"}, {"{}.q.bias", "{}.k.bias", "{}.v.bias"}};
  layer.names.attention_output = {{"{}.o"}, {"{}.o.bias"}};
  layer.names.ffn_in = {{"{}.up"}, {"{}.up.bias"}};
  layer.names.ffn_out = {{"{}.down"}, {"{}.down.bias"}};
  architecture.layers = {layer, layer};
  return architecture;
}

inline Parameter& add_parameter(TrainedModel& model, const std::string& name, Parameter::Kind kind,
                                std::vector<int64_t> shape) {
  Parameter& parameter = model.parameters.emplace_back();
  parameter.name = name;
  parameter.kind = kind;
  parameter.value = at::randn(shape).set_requires_grad(true);
  return parameter;
}

inline TrainedModel toy_model(uint64_t seed = 1) {
  at::manual_seed(seed);
  TrainedModel model;
  model.architecture = toy_architecture();
  const auto items = list_items(model.architecture, {}, FusedQkv::kWhole);
  for (const Item& item : *items) {
    Parameter& weight =
        add_parameter(model, item.name(), Parameter::Kind::kMatrix, {item.outputs, item.inputs});
    Parameter& bias = add_parameter(model, item.bias, Parameter::Kind::kBias, {item.outputs});
    model.matrices.push_back({{.item = item}, &weight, &bias});
  }
  return model;
}

inline Parameter& find(TrainedModel& model, const std::string& name) {
  for (Parameter& parameter : model.parameters) {
    if (parameter.name == name) return parameter;
  }
  ADD_FAILURE() << "no parameter " << name;
  return model.parameters.front();
}

// Moves every parameter to a place of its own: loss = sum (W - goal)^2 / 2, by gradient descent
// with momentum, which knows nothing of masks. A stand-in for the loop of training.
class ToyTraining {
 public:
  using State = std::map<std::string, at::Tensor>;

  explicit ToyTraining(const TuneOptions& options, uint64_t seed = 1) : model(toy_model(seed)) {
    at::manual_seed(99);
    for (const Parameter& parameter : model.parameters) {
      goals_.push_back(at::randn_like(parameter.value));
      momenta_.push_back(at::zeros_like(parameter.value));
    }
    auto made = make_restrictions(options, model);
    EXPECT_TRUE(made.ok()) << made.status().message();
    if (made.ok()) restrictions = std::move(made).value();
  }

  void begin() {
    for (auto& restriction : restrictions) EXPECT_TRUE(restriction->begin(model).ok());
  }

  double step(int64_t number) {
    double penalty = 0;
    for (size_t i = 0; i < model.parameters.size(); ++i) {
      at::Tensor& value = model.parameters[i].value;
      value.mutable_grad() = (value.detach() - goals_[i]) * 0.1;
    }
    for (auto& restriction : restrictions) penalty += restriction->add_gradients(model, number);
    for (size_t i = 0; i < model.parameters.size(); ++i) {
      at::Tensor& value = model.parameters[i].value;
      momenta_[i].mul_(0.9).add_(value.grad());
      value.detach().sub_(momenta_[i], 0.1);
    }
    for (auto& restriction : restrictions) EXPECT_TRUE(restriction->after_step(model, number).ok());
    return penalty;
  }

  void run(int64_t first, int64_t last) {
    for (int64_t number = first; number < last; ++number) step(number);
  }

  // What the loop keeps of a training, and takes it up from.
  State save() const {
    State state;
    for (size_t i = 0; i < model.parameters.size(); ++i) {
      state["value." + model.parameters[i].name] = model.parameters[i].value.detach().clone();
      state["momentum." + model.parameters[i].name] = momenta_[i].clone();
    }
    for (const auto& restriction : restrictions) {
      for (const auto& [name, tensor] : restriction->state()) state[name] = tensor.clone();
    }
    return state;
  }
  void take_up(const State& state) {
    for (size_t i = 0; i < model.parameters.size(); ++i) {
      model.parameters[i].value.detach().copy_(state.at("value." + model.parameters[i].name));
      momenta_[i].copy_(state.at("momentum." + model.parameters[i].name));
    }
    for (auto& restriction : restrictions) EXPECT_TRUE(restriction->restore(state).ok());
    begin();
  }

  TrainedModel model;
  std::vector<std::unique_ptr<Restriction>> restrictions;

 private:
  std::vector<at::Tensor> goals_, momenta_;
};

inline bool equal_bits(const ToyTraining::State& a, const ToyTraining::State& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a) {
    if (!b.contains(name) || !at::equal(tensor, b.at(name))) return false;
  }
  return true;
}

inline TuneOptions pruning_options(PruneTraining::Method method, double share, int64_t steps) {
  TuneOptions options;
  options.steps = steps;
  options.prune = PruneTraining{.method = method, .lambda = 0.05};
  options.prune->units.share = share;
  return options;
}

}  // namespace tessera::training
