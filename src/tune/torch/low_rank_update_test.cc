#include "tune/torch/low_rank_update.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <functional>
#include <random>

#include "io/testing.h"
#include "tune/torch/functions.h"
#include "tune/torch/prune_testing.h"

namespace tessera::training {
namespace {

using at::kDouble;
using torch::Tensor;

enum class Masked { kNo, kYes };

// W [outputs, inputs] with an update of rank r, and what it is multiplied by.
struct Problem {
  Problem(int64_t rows, int64_t outputs, int64_t inputs, int64_t rank, Masked masked) {
    at::manual_seed(11);
    x = at::randn({rows, inputs});
    dy = at::randn({rows, outputs});
    weight.name = "weight";
    weight.value = at::randn({outputs, inputs});
    bias.value = at::randn({outputs});
    down.value = at::randn({rank, inputs}).set_requires_grad(true);
    up.value = at::randn({outputs, rank}).set_requires_grad(true);
    weight.update = {&down, &up, 0.75f};
    kept = at::ones({outputs, inputs}, kDouble);
    if (masked == Masked::kYes) prune();
    x.set_requires_grad(true);
  }

  void prune() {
    weight.mask = TileMask::all({4, 8}, weight.value.size(0), weight.value.size(1));
    std::mt19937 generator(7);
    for (uint8_t& one : weight.mask->kept) one = generator() % 2;
    for (int64_t r = 0; r < kept.size(0); ++r) {
      for (int64_t c = 0; c < kept.size(1); ++c) {
        if (!weight.mask->keeps(r / 4, c / 8)) kept[r][c] = 0;
      }
    }
    weight.value.mul_(kept.to(at::kFloat));
  }

  // The formula of the header in f64, of the numbers as they are or of their sizes, for a bound.
  enum class Of { kNumbers, kSizes };
  Tensor y(const Tensor& read, const Tensor& a, const Tensor& b, Of of = Of::kNumbers) const {
    const auto number = [&](const Tensor& tensor) {
      const Tensor wide = tensor.detach().to(kDouble);
      return of == Of::kSizes ? wide.abs() : wide;
    };
    const Tensor update = double{weight.update->scale} * kept * number(b).matmul(number(a));
    return number(x).matmul(number(weight.value).t()) + number(bias.value) +
           number(read).matmul(update.t());
  }
  Tensor y(Of of = Of::kNumbers) const { return y(x, down.value, up.value, of); }

  Tensor x, dy, kept;
  Parameter weight, bias, down, up;
};

// The derivatives of a function of a tensor of doubles, each as a central difference.
Tensor differences(const Tensor& at_point, const std::function<double(const Tensor&)>& f) {
  constexpr double kStep = 1e-3;
  const Tensor point = at_point.detach().to(kDouble).clone();
  Tensor gradient = at::empty_like(point);
  double* numbers = point.data_ptr<double>();
  for (int64_t i = 0; i < point.numel(); ++i) {
    const double middle = numbers[i];
    numbers[i] = middle + kStep;
    const double above = f(point);
    numbers[i] = middle - kStep;
    gradient.data_ptr<double>()[i] = (above - f(point)) / (2 * kStep);
    numbers[i] = middle;
  }
  return gradient;
}

void expect_within(const Tensor& found, const Tensor& expected, const Tensor& bound) {
  ASSERT_TRUE(found.defined());
  ASSERT_EQ(found.sizes(), expected.sizes());
  EXPECT_LE(((found.detach().to(kDouble) - expected).abs() - bound).max().item<double>(), 0);
}

class LowRank : public ::testing::TestWithParam<Masked> {};

// Sums over inputs and over the rank one after another: as many roundings as both are long, and
// some for the scale, the bias and the sum.
TEST_P(LowRank, EqualsItsFormula) {
  const int64_t sizes[][4] = {{1, 8, 16, 1}, {37, 20, 24, 3}, {150, 64, 48, 8}, {5, 12, 9, 9}};
  for (const auto& [rows, outputs, inputs, rank] : sizes) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << inputs << " -> " << outputs);
    const Problem problem(rows, outputs, inputs, rank, GetParam());
    const auto roundings = static_cast<double>(inputs + rank + 6);
    expect_within(updated_linear(problem.x, problem.weight, &problem.bias, 0), problem.y(),
                  roundings * FLT_EPSILON * problem.y(Problem::Of::kSizes));
  }
}

// y is linear in A, in B and in x, so that central differences have no error but rounding in f64.
TEST_P(LowRank, GradientsAreDifferences) {
  const Problem problem(6, 12, 16, 3, GetParam());
  updated_linear(problem.x, problem.weight, &problem.bias, 0).backward(problem.dy);
  EXPECT_FALSE(problem.weight.value.grad().defined());
  const Tensor dy = problem.dy.to(kDouble);
  const auto loss = [&](const Tensor& y) { return (dy * y).sum().item<double>(); };
  const Tensor &a = problem.down.value, &b = problem.up.value;
  const double largest = (dy.abs() * problem.y(Problem::Of::kSizes)).sum().item<double>();
  const Tensor bound = at::full({}, 64 * FLT_EPSILON * largest);
  expect_within(a.grad(),
                differences(a, [&](const Tensor& p) { return loss(problem.y(problem.x, p, b)); }),
                bound);
  expect_within(b.grad(),
                differences(b, [&](const Tensor& p) { return loss(problem.y(problem.x, a, p)); }),
                bound);
  const Tensor w = problem.weight.value.to(kDouble) +
                   0.75 * problem.kept * b.detach().to(kDouble).matmul(a.detach().to(kDouble));
  expect_within(problem.x.grad(), dy.matmul(w), bound);
}

TEST_P(LowRank, WhatIsMergedIsWhatWasTrained) {
  const Problem problem(33, 20, 24, 4, GetParam());
  const Tensor merged = updated_values(problem.weight);
  EXPECT_TRUE(at::equal(merged.detach() * (1 - problem.kept).to(at::kFloat),
                        at::zeros_like(problem.weight.value)));
  const Tensor found = linear(problem.x, problem.weight, merged, &problem.bias);
  expect_within(found, problem.y(), 40 * FLT_EPSILON * problem.y(Problem::Of::kSizes));
}

TEST_P(LowRank, DropsWhatTheUpdateReads) {
  const Problem problem(33, 20, 24, 4, GetParam());
  at::manual_seed(3);
  const Tensor found = updated_linear(problem.x, problem.weight, &problem.bias, 0.5);
  at::manual_seed(3);
  const Tensor read = at::dropout(problem.x.detach(), 0.5, true);
  const Tensor &a = problem.down.value, &b = problem.up.value;
  expect_within(found, problem.y(read, a, b),
                40 * FLT_EPSILON * problem.y(read, a, b, Problem::Of::kSizes));
}

INSTANTIATE_TEST_SUITE_P(Masks, LowRank, ::testing::Values(Masked::kNo, Masked::kYes),
                         [](const auto& info) {
                           return info.param == Masked::kNo ? "Whole" : "Pruned";
                         });

TuneOptions lora_of(int32_t rank, const std::vector<std::string>& train = {}) {
  TuneOptions options;
  options.task = TuneTask::kCausalLm;
  options.lora = LoraOptions{.rank = rank};
  options.train = train;
  return options;
}

TrainedModel frozen_toy() {
  TrainedModel model = toy_model();
  for (Parameter& parameter : model.parameters) parameter.value.set_requires_grad(false);
  return model;
}

TEST(AddUpdates, TrainTheUpdatesOfAllMatricesAlone) {
  TrainedModel model = frozen_toy(), again = frozen_toy(), other = frozen_toy();
  TuneOptions options = lora_of(3);
  ASSERT_TRUE(choose_trained(options, model).ok());
  ASSERT_TRUE(choose_trained(options, again).ok());
  options.seed = 1;
  ASSERT_TRUE(choose_trained(options, other).ok());
  EXPECT_EQ(model.trained().size(), 2 * model.matrices.size());
  for (size_t i = 0; i < model.matrices.size(); ++i) {
    const Parameter& weight = *model.matrices[i].weight;
    EXPECT_FALSE(weight.is_trained());
    ASSERT_TRUE(weight.update);
    const Tensor a = weight.update->down->value.detach();
    EXPECT_FLOAT_EQ(weight.update->scale, 2);
    EXPECT_EQ(a.sizes().vec(), (std::vector<int64_t>{3, weight.value.size(1)}));
    const double bound = 1 / std::sqrt(static_cast<double>(a.size(1)));
    EXPECT_LE(a.abs().max().item<double>(), bound * (1 + FLT_EPSILON));
    EXPECT_GT(a.std().item<double>(), 0.4 * bound);
    EXPECT_EQ(at::count_nonzero(weight.update->up->value).item<int64_t>(), 0);
    EXPECT_TRUE(at::equal(a, again.matrices[i].weight->update->down->value));
    EXPECT_FALSE(at::equal(a, other.matrices[i].weight->update->down->value));
    EXPECT_EQ(model.find(weight.update->up->name), weight.update->up);
  }
}

TEST(AddUpdates, LeaveWhatIsNotChosen) {
  TrainedModel model = frozen_toy();
  ASSERT_TRUE(choose_trained(lora_of(2, {"query", "value"}), model).ok());
  for (const TrainedModel::Stored& stored : model.matrices) {
    const Role role = stored.matrix.item.role;
    EXPECT_EQ(stored.weight->update.has_value(), role == Role::kQuery || role == Role::kValue);
  }
}

TEST(AddUpdates, PartsOfATensorShareWhatReads) {
  TrainedModel model = frozen_toy();
  for (TrainedModel::Stored& stored : model.matrices) {
    if (stored.matrix.item.map == LayerMap::kQkv) stored.matrix.item.tensor = "fused";
  }
  ASSERT_TRUE(choose_trained(lora_of(2), model).ok());
  const auto &q = model.matrices[0].weight->update, &k = model.matrices[1].weight->update;
  EXPECT_EQ(q->down, k->down);
  EXPECT_NE(q->up, k->up);
}

TEST(AddUpdates, AreRefusedWhereTheyMakeNoSense) {
  TrainedModel model = frozen_toy();
  // Keys and values have 12 outputs.
  tessera::testing::expect_message(choose_trained(lora_of(13), model),
                                   {"rank of at most 12", "found 13"});
  TrainedModel none = frozen_toy();
  tessera::testing::expect_message(choose_trained(lora_of(2, {"head"}), none),
                                   {"lora", "found none"});
  TrainedModel rounded = frozen_toy();
  rounded.matrices[0].weight->rounding = SourceRounding{};
  tessera::testing::expect_message(choose_trained(lora_of(2), rounded), {"integers", "adapter"});
  TuneOptions kept = lora_of(2);
  kept.lora->output = LoraOptions::Output::kAdapter;
  TrainedModel adapted = frozen_toy();
  adapted.matrices[0].weight->rounding = SourceRounding{};
  EXPECT_TRUE(choose_trained(kept, adapted).ok());
}

}  // namespace
}  // namespace tessera::training
