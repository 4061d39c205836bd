#include "tune/torch/recompute.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <mutex>
#include <utility>

namespace tessera::training {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor generator_state() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void set_generator_state(const Tensor& state) {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

// Draws what was drawn from a state on, and then goes on as if nothing had been drawn.
class DrawnAgain {
 public:
  explicit DrawnAgain(const Tensor& state) : before_(generator_state()) {
    set_generator_state(state);
  }
  ~DrawnAgain() { set_generator_state(before_); }
  DrawnAgain(const DrawnAgain&) = delete;
  DrawnAgain& operator=(const DrawnAgain&) = delete;

 private:
  Tensor before_;
};

struct Kept : torch::CustomClassHolder {
  Computation f;
  std::vector<Tensor> weights;
  Tensor generator;
};

class Recomputed : public torch::autograd::Function<Recomputed> {
 public:
  // inputs: x and the weights.
  static variable_list forward(AutogradContext* context, at::TensorList inputs,
                               const c10::intrusive_ptr<Kept>& kept) {
    context->save_for_backward({inputs[0]});
    context->set_materialize_grads(false);
    kept->generator = generator_state();
    context->saved_data["kept"] = at::IValue::make_capsule(kept);
    return kept->f(inputs[0]);
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto kept = c10::static_intrusive_pointer_cast<Kept>(
        context->saved_data.find("kept")->second.toCapsule());
    const at::AutoGradMode with_gradients(true);
    const Tensor x =
        context->get_saved_variables()[0].detach().set_requires_grad(context->needs_input_grad(0));
    variable_list outputs, output_gradients, wanted;
    {
      const DrawnAgain drawn(kept->generator);
      const std::vector<Tensor> results = kept->f(x);
      for (size_t i = 0; i < results.size(); ++i) {
        if (!gradients[i].defined() || !results[i].requires_grad()) continue;
        outputs.push_back(results[i]);
        output_gradients.push_back(gradients[i]);
      }
    }
    const size_t inputs = 1 + kept->weights.size();
    std::vector<size_t> places;
    for (size_t i = 0; i < inputs; ++i) {
      if (!context->needs_input_grad(i)) continue;
      places.push_back(i);
      wanted.push_back(i == 0 ? x : kept->weights[i - 1]);
    }
    variable_list all(inputs + 1);  // one more for what is no tensor
    if (outputs.empty() || wanted.empty()) return all;
    const variable_list found = torch::autograd::grad(outputs, wanted, output_gradients,
                                                      c10::nullopt, false, /*allow_unused=*/true);
    for (size_t i = 0; i < found.size(); ++i) all[places[i]] = found[i];
    return all;
  }
};

struct Parts : torch::CustomClassHolder {
  const PartialLoss* f = nullptr;  // of the forward pass alone
  int64_t n = 0;
};

class LossByParts : public torch::autograd::Function<LossByParts> {
 public:
  // inputs: x and the weights.
  static Tensor forward(AutogradContext* context, at::TensorList inputs,
                        const c10::intrusive_ptr<Parts>& parts) {
    const at::AutoGradMode with_gradients(true);
    const Tensor& x = inputs[0];
    Tensor sum = at::zeros({}, x.options().requires_grad(false));
    variable_list gradients(inputs.size()), of_rows;
    for (int64_t first = 0; first < x.size(0); first += parts->n) {
      const Tensor rows = x.detach()
                              .narrow(0, first, std::min(parts->n, x.size(0) - first))
                              .set_requires_grad(x.requires_grad());
      const Tensor loss = (*parts->f)(rows, first);
      sum.add_(loss.detach());
      add_gradients(loss, rows, inputs, gradients);
      of_rows.push_back(std::exchange(gradients[0], Tensor()));
    }
    if (of_rows.front().defined()) gradients[0] = at::cat(of_rows, 0);
    context->save_for_backward(gradients);
    return sum;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    variable_list all = context->get_saved_variables();
    for (Tensor& gradient : all) {
      if (gradient.defined()) gradient = gradient * gradients[0];
    }
    all.emplace_back();  // of what is no tensor
    return all;
  }

 private:
  static void add_gradients(const Tensor& loss, const Tensor& rows, at::TensorList inputs,
                            variable_list& gradients) {
    variable_list wanted;
    std::vector<size_t> places;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!inputs[i].requires_grad()) continue;
      places.push_back(i);
      wanted.push_back(i == 0 ? rows : inputs[i]);
    }
    if (!loss.requires_grad() || wanted.empty()) return;
    const variable_list found =
        torch::autograd::grad({loss}, wanted, {}, c10::nullopt, false, /*allow_unused=*/true);
    for (size_t i = 0; i < found.size(); ++i) {
      Tensor& sum = gradients[places[i]];
      if (found[i].defined()) sum = sum.defined() ? sum.add_(found[i]) : found[i];
    }
  }
};

std::vector<Tensor> with_weights(const Tensor& x, const std::vector<Tensor>& weights) {
  std::vector<Tensor> inputs = {x};
  inputs.insert(inputs.end(), weights.begin(), weights.end());
  return inputs;
}

}  // namespace

std::vector<Tensor> recomputed(Computation f, const Tensor& x, const std::vector<Tensor>& weights) {
  if (!at::GradMode::is_enabled()) return f(x);
  const auto kept = c10::make_intrusive<Kept>();
  kept->f = std::move(f);
  kept->weights = weights;
  const std::vector<Tensor> inputs = with_weights(x, weights);
  return Recomputed::apply(at::TensorList(inputs), kept);
}

Tensor loss_by_parts(const PartialLoss& f, const Tensor& x, int64_t n,
                     const std::vector<Tensor>& weights) {
  if (!at::GradMode::is_enabled()) {
    Tensor sum = at::zeros({}, x.options());
    for (int64_t first = 0; first < x.size(0); first += n)
      sum = sum + f(x.narrow(0, first, std::min(n, x.size(0) - first)), first);
    return sum;
  }
  const auto parts = c10::make_intrusive<Parts>();
  parts->f = &f;
  parts->n = n;
  const std::vector<Tensor> inputs = with_weights(x, weights);
  return LossByParts::apply(at::TensorList(inputs), parts);
}

}  // namespace tessera::training
