#include "tune/torch/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace tessera::training {
namespace {

std::vector<float> random_numbers(size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(count);
  for (float& number : numbers) number = normal(generator);
  return numbers;
}

at::Tensor tensor_of(const std::vector<float>& values, const std::vector<int64_t>& shape) {
  return at::from_blob(const_cast<float*>(values.data()), shape, at::kFloat).clone();
}

Parameter make(Parameter::Kind kind, int64_t rows, int64_t cols, unsigned seed) {
  Parameter parameter{.name = std::to_string(seed), .kind = kind, .value = {}, .mask = {}};
  const std::vector<float> values = random_numbers(static_cast<size_t>(rows * cols), seed);
  parameter.value = tensor_of(values, {rows, cols});
  parameter.value.set_requires_grad(true);
  return parameter;
}

void set_gradient(Parameter& parameter, unsigned seed) {
  const std::vector<float> values =
      random_numbers(static_cast<size_t>(parameter.value.numel()), seed);
  parameter.value.mutable_grad() = tensor_of(values, parameter.value.sizes().vec());
}

// The update of the paper, in double, of one number.
struct Reference {
  double weight, first = 0, second = 0;
  void step(double gradient, double rate, double decay, int t, const OptimizerOptions& options) {
    weight -= rate * decay * weight;
    first = options.beta1 * first + (1 - options.beta1) * gradient;
    second = options.beta2 * second + (1 - options.beta2) * gradient * gradient;
    const double m = first / (1 - std::pow(options.beta1, t));
    const double v = second / (1 - std::pow(options.beta2, t));
    weight -= rate * m / (std::sqrt(v) + options.epsilon);
  }
};

// A step moves a weight by at most about 10 * rate here and takes some 12 roundings of what it
// moves by, and the weight itself is rounded twice.
double tolerance(double weight, double rate, int steps) {
  constexpr double kEps = 0x1p-24;
  return steps * kEps * (2 * std::abs(weight) + 4 + 12 * 10 * rate);
}

TEST(AdamW, EqualsTheFormula) {
  const OptimizerOptions options{.weight_decay = 0.1};
  constexpr double kRate = 0.02, kScale = 0.37;
  constexpr int kSteps = 12;
  for (const auto kind : {Parameter::Kind::kMatrix, Parameter::Kind::kTable, Parameter::Kind::kBias,
                          Parameter::Kind::kNorm}) {
    // More than one piece, and no multiple of a vector.
    Parameter parameter = make(kind, 131, 257, 1);
    const bool decays = kind == Parameter::Kind::kMatrix || kind == Parameter::Kind::kTable;
    std::vector<Reference> expected;
    for (const float value : values_of(parameter.value)) expected.push_back({value});
    AdamW optimizer(options, {&parameter});
    for (int t = 1; t <= kSteps; ++t) {
      set_gradient(parameter, 10 + static_cast<unsigned>(t));
      const std::vector<float> gradient = values_of(parameter.value.grad());
      for (size_t i = 0; i < expected.size(); ++i)
        expected[i].step(static_cast<double>(gradient[i]) * kScale, kRate, decays ? 0.1 : 0, t,
                         options);
      optimizer.step(kRate, kScale);
      EXPECT_FALSE(parameter.value.grad().defined());
    }
    EXPECT_EQ(optimizer.steps(), kSteps);
    const std::vector<float> found = values_of(parameter.value);
    for (size_t i = 0; i < expected.size(); ++i) {
      const double error = std::abs(expected[i].weight - static_cast<double>(found[i]));
      ASSERT_LE(error, tolerance(expected[i].weight, kRate, kSteps)) << i;
    }
  }
}

TEST(AdamW, TouchesNothingThatIsPruned) {
  for (const TileShape tile :
       {TileShape{16, 16}, TileShape{16, 1}, TileShape{1, 1}, TileShape{1, 70}, TileShape{50, 1}}) {
    Parameter masked = make(Parameter::Kind::kMatrix, 50, 70, 2);
    Parameter plain = make(Parameter::Kind::kMatrix, 50, 70, 2);
    TileMask mask = TileMask::all(tile, 50, 70);
    std::mt19937 generator(3);
    for (uint8_t& kept : mask.kept) kept = generator() % 2;
    masked.mask = mask;
    const std::vector<float> before = values_of(masked.value);
    AdamW optimizer({}, {&masked}), whole({}, {&plain});
    for (unsigned t = 0; t < 3; ++t) {
      set_gradient(masked, 20 + t);
      set_gradient(plain, 20 + t);
      optimizer.step(0.1, 1);
      whole.step(0.1, 1);
    }
    const std::vector<float> found = values_of(masked.value), trained = values_of(plain.value);
    for (int64_t i = 0; i < 50; ++i) {
      for (int64_t j = 0; j < 70; ++j) {
        const auto at = static_cast<size_t>(i * 70 + j);
        const float expected = mask.keeps(i / tile.rows, j / tile.cols) ? trained[at] : before[at];
        ASSERT_EQ(found[at], expected) << i << " " << j;
      }
    }
  }
}

TEST(AdamW, ThreadsDoNotChangeTheResult) {
  const int threads = at::get_num_threads();
  std::vector<std::vector<float>> found;
  std::vector<double> norms;
  for (const int wanted : {1, 2, 3}) {
    at::set_num_threads(wanted);
    Parameter parameter = make(Parameter::Kind::kMatrix, 300, 301, 4);
    AdamW optimizer({}, {&parameter});
    set_gradient(parameter, 5);
    norms.push_back(optimizer.gradient_norm());
    optimizer.step(0.1, 1);
    found.push_back(values_of(parameter.value));
  }
  at::set_num_threads(threads);
  for (size_t i = 1; i < found.size(); ++i) {
    EXPECT_EQ(found[i], found[0]);
    EXPECT_EQ(norms[i], norms[0]);
  }
}

TEST(AdamW, TheNormIsOfAllGradients) {
  Parameter first = make(Parameter::Kind::kMatrix, 200, 200, 6);
  Parameter second = make(Parameter::Kind::kBias, 1, 7, 7);
  Parameter without = make(Parameter::Kind::kBias, 1, 7, 8);
  const AdamW optimizer({}, {&first, &second, &without});
  EXPECT_EQ(optimizer.gradient_norm(), 0);
  set_gradient(first, 9);
  set_gradient(second, 10);
  double sum = 0;
  for (const Parameter* parameter : {&first, &second}) {
    for (const float value : values_of(parameter->value.grad()))
      sum += static_cast<double>(value) * static_cast<double>(value);
  }
  EXPECT_NEAR(optimizer.gradient_norm(), std::sqrt(sum), 1e-12 * std::sqrt(sum));
}

TEST(AdamW, WhatHasNoGradientStays) {
  Parameter parameter = make(Parameter::Kind::kMatrix, 4, 4, 11);
  const std::vector<float> before = values_of(parameter.value);
  AdamW optimizer({}, {&parameter});
  optimizer.step(0.1, 1);
  EXPECT_EQ(values_of(parameter.value), before);
}

}  // namespace
}  // namespace tessera::training
