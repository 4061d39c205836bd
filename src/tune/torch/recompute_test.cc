#include "tune/torch/recompute.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>

#include "tune/torch/functions.h"

namespace tessera::training {
namespace {

using torch::Tensor;

Parameter matrix(int64_t rows, int64_t cols) {
  Parameter parameter{.name = "w", .value = {}, .mask = {}};
  parameter.value = (at::randn({rows, cols}) * 0.3).set_requires_grad(true);
  return parameter;
}

// Two layers with dropout, of which the second reads what the first draws behind.
struct Toy {
  Parameter first, second;
  Tensor x, target;

  Toy() {
    at::manual_seed(7);
    first = matrix(12, 12);
    second = matrix(12, 12);
    x = at::randn({9, 12}).set_requires_grad(true);
    target = at::randn({9, 12});
  }
  std::vector<Tensor> weights() const { return {first.value, second.value}; }

  struct Outcome {
    std::vector<Tensor> numbers;  // loss, gradients, and what is drawn behind it
  };
  enum class Way { kKept, kRecomputed };
  Outcome run(Way way) {
    at::manual_seed(11);
    Tensor states = x;
    Tensor loss = at::zeros({});
    for (const Parameter* weight : {&first, &second}) {
      const auto layer = [weight](const Tensor& input) -> std::vector<Tensor> {
        const Tensor inner = at::gelu(linear(input, *weight, nullptr));
        return {input + at::dropout(inner, 0.3, true), inner};
      };
      const Tensor entered = at::alias(states);
      const std::vector<Tensor> results =
          way == Way::kKept ? layer(entered) : recomputed(layer, entered, weights());
      states = results[0];
      loss = loss + at::mse_loss(states, target) + at::mean(results[1] * results[1]);
    }
    loss.backward();
    Outcome outcome{{loss.detach(), at::rand({4})}};
    for (Tensor* leaf : {&x, &first.value, &second.value}) {
      outcome.numbers.push_back(leaf->grad().clone());
      leaf->mutable_grad() = Tensor();
    }
    return outcome;
  }
};

TEST(Recompute, EqualsWhatIsKeptBitForBit) {
  Toy toy;
  const Toy::Outcome kept = toy.run(Toy::Way::kKept), again = toy.run(Toy::Way::kRecomputed);
  ASSERT_EQ(kept.numbers.size(), again.numbers.size());
  for (size_t i = 0; i < kept.numbers.size(); ++i) {
    EXPECT_GT(kept.numbers[i].abs().max().item<double>(), 0) << i;
    EXPECT_TRUE(at::equal(kept.numbers[i], again.numbers[i])) << i;
  }
}

TEST(Recompute, ComputesOnceWithoutGradients) {
  int calls = 0;
  const Computation count = [&](const Tensor& x) -> std::vector<Tensor> {
    ++calls;
    return {x * 2};
  };
  const Tensor x = at::ones({3}).set_requires_grad(true);
  {
    const at::NoGradGuard no_gradients;
    EXPECT_FALSE(recomputed(count, x, {})[0].requires_grad());
  }
  EXPECT_EQ(calls, 1);
  at::sum(recomputed(count, x, {})[0]).backward();
  EXPECT_EQ(calls, 3);
  EXPECT_TRUE(at::equal(x.grad(), at::full({3}, 2)));
}

// Cross-entropy of a head over 40 words, with everything in double.
struct Reference {
  double loss = 0;
  Tensor rows, weight;
};
Reference reference(const Tensor& x, const Tensor& weight, const Tensor& labels) {
  const Tensor rows = x.detach().to(at::kDouble).set_requires_grad(true);
  const Tensor wide = weight.detach().to(at::kDouble).set_requires_grad(true);
  const Tensor loss = at::cross_entropy_loss(at::matmul(rows, wide.t()), labels);
  (loss * 3).backward();
  return {loss.item<double>(), rows.grad(), wide.grad()};
}

void expect_near(const Tensor& found, const Tensor& expected, double steps) {
  const double difference = (found.to(at::kDouble) - expected).norm().item<double>();
  EXPECT_LE(difference,
            steps * std::numeric_limits<float>::epsilon() * expected.norm().item<double>());
}

TEST(LossByParts, EqualsTheSum) {
  at::manual_seed(3);
  const Parameter weight = matrix(40, 8);
  const Parameter unread = matrix(2, 2);
  const Tensor x = at::randn({11, 8}).set_requires_grad(true);
  const Tensor labels = at::randint(40, {11}, at::kLong);
  const PartialLoss loss = [&](const Tensor& rows, int64_t first) {
    const Tensor logits = linear(rows, weight, nullptr);
    return at::cross_entropy_loss(logits, labels.narrow(0, first, rows.size(0))) *
           (static_cast<double>(rows.size(0)) / 11);
  };
  const Reference expected = reference(x, weight.value, labels);
  // Sums of 40 and of 11 products, rounded at each; 4 for what stands around them.
  constexpr double kSteps = 40 + 11 + 4;
  for (const int64_t rows : {1, 4, 11, 30}) {
    const Tensor found = loss_by_parts(loss, x, rows, {weight.value, unread.value});
    EXPECT_NEAR(found.item<double>(), expected.loss,
                kSteps * std::numeric_limits<float>::epsilon() * expected.loss);
    (found * 3).backward();
    expect_near(x.grad(), expected.rows, kSteps);
    expect_near(weight.value.grad(), expected.weight, kSteps);
    EXPECT_FALSE(unread.value.grad().defined());
    const_cast<Tensor&>(x).mutable_grad() = Tensor();
    const_cast<Tensor&>(weight.value).mutable_grad() = Tensor();
    const at::NoGradGuard no_gradients;
    EXPECT_EQ(loss_by_parts(loss, x, rows, {}).item<double>(), found.item<double>());
  }
}

// Where the head itself is not trained.
TEST(LossByParts, GivesGradientsOfRowsAlone) {
  at::manual_seed(3);
  Parameter weight = matrix(40, 8);
  weight.value = weight.value.detach();
  const Tensor x = at::randn({5, 8}).set_requires_grad(true);
  const PartialLoss loss = [&](const Tensor& rows, int64_t) {
    return at::sum(linear(rows, weight, nullptr));
  };
  loss_by_parts(loss, x, 2, {}).backward();
  const Tensor expected = at::sum(weight.value.to(at::kDouble), {0}).expand({5, 8});
  expect_near(x.grad(), expected, 40);
}

}  // namespace
}  // namespace tessera::training
