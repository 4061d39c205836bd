#include "tune/torch/functions.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <numeric>
#include <random>

namespace tessera::training {
namespace {

using at::kDouble;
using torch::Tensor;

constexpr double kEpsilon = FLT_EPSILON;

Tensor random_tensor(std::vector<int64_t> sizes, uint64_t seed, double scale = 1) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal(0, static_cast<float>(scale));
  Tensor tensor = at::empty(sizes);
  float* values = tensor.data_ptr<float>();
  std::generate(values, values + tensor.numel(), [&] { return normal(generator); });
  return tensor;
}

// |found - expected| <= bound everywhere.
void expect_within(const Tensor& found, const Tensor& expected, const Tensor& bound) {
  ASSERT_TRUE(found.defined());
  ASSERT_EQ(found.sizes(), expected.sizes());
  const Tensor excess = (found.to(kDouble) - expected).abs() - bound;
  if (excess.numel() == 0) return;
  EXPECT_LE(excess.max().item<double>(), 0) << "of " << expected.abs().max().item<double>();
}

TileMask draw_mask(TileShape tile, int64_t rows, int64_t cols, double kept) {
  TileMask mask = TileMask::all(tile, rows, cols);
  std::mt19937 generator(7);
  for (uint8_t& one : mask.kept) one = std::bernoulli_distribution(kept)(generator);
  return mask;
}

Tensor dense(const TileMask& mask) {
  Tensor ones = at::zeros({mask.rows, mask.cols}, kDouble);
  for (int64_t r = 0; r < mask.rows; ++r) {
    for (int64_t c = 0; c < mask.cols; ++c) {
      if (mask.keeps(r / mask.tile.rows, c / mask.tile.cols)) ones[r][c] = 1;
    }
  }
  return ones;
}

enum class Bias { kNone, kSome };

struct LinearProblem {
  LinearProblem(int64_t rows, int64_t outputs, int64_t inputs)
      : x(random_tensor({rows, inputs}, 1)), dy(random_tensor({rows, outputs}, 2)) {
    weight.name = "weight";
    weight.value = random_tensor({outputs, inputs}, 3);
    bias.value = random_tensor({outputs}, 4);
  }

  void prune(TileShape tile, double kept) {
    weight.mask = draw_mask(tile, weight.value.size(0), weight.value.size(1), kept);
    weight.value *= dense(*weight.mask).to(at::kFloat);
  }

  void run(Bias with) {
    for (const Tensor* tensor : {&x, &weight.value, &bias.value}) tensor->set_requires_grad(true);
    y = linear(x, weight, with == Bias::kSome ? &bias : nullptr);
    y.backward(dy);
    y = y.detach();
  }

  // A product of depth k with bias: each of its sums of at most k + 2 roundings.
  void check(Bias with) const {
    const Tensor a = x.detach().to(kDouble), w = weight.value.detach().to(kDouble);
    const Tensor b = bias.value.detach().to(kDouble), g = dy.to(kDouble);
    const auto bound = [](const Tensor& left, const Tensor& right) {
      const auto roundings = static_cast<double>(left.size(1) + 2);
      return roundings * kEpsilon * left.abs().matmul(right.abs()) + DBL_MIN;
    };
    Tensor expected = a.matmul(w.t()), tolerance = bound(a, w.t());
    if (with == Bias::kSome) {
      expected = expected + b;
      tolerance = tolerance + 2 * kEpsilon * b.abs();
    }
    expect_within(y, expected, tolerance);
    expect_within(x.grad(), g.matmul(w), bound(g, w));
    const Tensor kept = weight.mask.has_value() ? dense(*weight.mask) : at::ones_like(w);
    expect_within(weight.value.grad(), g.t().matmul(a) * kept, bound(g.t(), a) * kept);
    if (with == Bias::kNone) {
      EXPECT_FALSE(bias.value.grad().defined());
      return;
    }
    const Tensor one = at::ones({g.size(0), 1}, kDouble);
    expect_within(bias.value.grad(), g.sum(0), bound(g.t(), one).squeeze(1));
  }

  Tensor x, dy, y;
  Parameter weight, bias;
};

TEST(Linear, EqualsPlainProducts) {
  const int64_t sizes[][3] = {{0, 5, 7},    {1, 1, 1},    {1, 17, 33},   {15, 16, 16},
                              {64, 48, 31}, {130, 65, 1}, {257, 33, 129}};
  for (const auto& [rows, outputs, inputs] : sizes) {
    for (const Bias with : {Bias::kNone, Bias::kSome}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << inputs << " -> " << outputs);
      LinearProblem problem(rows, outputs, inputs);
      problem.run(with);
      problem.check(with);
    }
  }
}

TEST(Linear, PrunedEqualsMaskedProducts) {
  const TileShape tiles[] = {{16, 16}, {16, 1}, {1, 16}, {1, 1}, {32, 32}, {8, 16}, {8, 8},
                             {48, 5},  {3, 32}, {8, 1},  {5, 3}, {1, 75},  {83, 1}};
  for (const TileShape tile : tiles) {
    for (const double kept : {0.0, 0.2, 0.5, 1.0}) {
      for (const int64_t rows : {1, 40, 150}) {
        SCOPED_TRACE(testing::Message() << rows << " rows, tiles " << tile.rows << " x "
                                        << tile.cols << ", " << kept << " kept");
        LinearProblem problem(rows, 83, 75);
        problem.prune(tile, kept);
        problem.run(Bias::kSome);
        problem.check(Bias::kSome);
      }
    }
  }
}

// Values of a tensor, as f64.
std::vector<double> values_of(const Tensor& tensor) {
  const float* values = tensor.data_ptr<float>();
  return {values, values + tensor.numel()};
}

// The gradient of total(), which reads `values`, by central differences.
template <typename Total>
Tensor differences(std::vector<double>& values, const Tensor& like, Total total) {
  constexpr double kStep = 1e-5;
  Tensor result = at::empty(like.sizes(), kDouble);
  for (size_t i = 0; i < values.size(); ++i) {
    const double before = values[i];
    values[i] = before + kStep;
    const double above = total();
    values[i] = before - kStep;
    result.data_ptr<double>()[i] = (above - total()) / (2 * kStep);
    values[i] = before;
  }
  return result;
}

// The total is linear in each number, so differences are exact but for roundings in f64; those of
// f32 are at most 7 in a sum of 5 products of numbers below 4.
TEST(Linear, GradientsAreDifferences) {
  constexpr int64_t kRows = 3, kOutputs = 5, kInputs = 4;
  constexpr double kTolerance = 7 * kEpsilon * 5 * 16;
  LinearProblem problem(kRows, kOutputs, kInputs);
  problem.run(Bias::kSome);
  std::vector<double> x = values_of(problem.x), w = values_of(problem.weight.value);
  std::vector<double> b = values_of(problem.bias.value), g = values_of(problem.dy);
  const auto total = [&] {
    double sum = 0;
    for (size_t m = 0; m < kRows; ++m) {
      for (size_t n = 0; n < kOutputs; ++n) {
        double y = b[n];
        for (size_t k = 0; k < kInputs; ++k) y += x[m * kInputs + k] * w[n * kInputs + k];
        sum += g[m * kOutputs + n] * y;
      }
    }
    return sum;
  };
  const auto check = [&](const Tensor& tensor, std::vector<double>& values) {
    const Tensor expected = differences(values, tensor, total);
    expect_within(tensor.grad(), expected, at::full_like(expected, kTolerance));
  };
  check(problem.x, x);
  check(problem.weight.value, w);
  check(problem.bias.value, b);
}

TEST(Linear, FrozenInputsGetNoGradient) {
  LinearProblem problem(20, 30, 40);
  problem.weight.value.set_requires_grad(true);
  linear(problem.x, problem.weight, &problem.bias).backward(problem.dy);
  EXPECT_TRUE(problem.weight.value.grad().defined());
  EXPECT_FALSE(problem.x.grad().defined());
  EXPECT_FALSE(problem.bias.value.grad().defined());

  LinearProblem other(20, 30, 40);
  other.x.set_requires_grad(true);
  linear(other.x, other.weight, &other.bias).backward(other.dy);
  EXPECT_TRUE(other.x.grad().defined());
  EXPECT_FALSE(other.weight.value.grad().defined());
  EXPECT_FALSE(linear(other.x.detach(), other.weight, nullptr).requires_grad());
}

TEST(Linear, EqualRunsGiveEqualBits) {
  for (const double kept : {0.2, 1.0}) {
    LinearProblem one(333, 96, 160), other(333, 96, 160);
    for (LinearProblem* problem : {&one, &other}) {
      if (kept < 1) problem->prune({16, 16}, kept);
      problem->run(Bias::kSome);
    }
    EXPECT_TRUE(one.y.equal(other.y));
    EXPECT_TRUE(one.x.grad().equal(other.x.grad()));
    EXPECT_TRUE(one.weight.value.grad().equal(other.weight.value.grad()));
    EXPECT_TRUE(one.bias.value.grad().equal(other.bias.value.grad()));
  }
}

TEST(Linear, RefusesRowsOfAnotherWidth) {
  LinearProblem problem(4, 5, 6);
  EXPECT_THROW(linear(random_tensor({4, 7}, 1), problem.weight, nullptr), c10::Error);
}

struct AttentionCase {
  std::vector<int32_t> lengths;
  int32_t query_heads, kv_heads, head_size;
  Mask mask;
  double spread = 1;  // of queries
};

struct AttentionProblem {
  explicit AttentionProblem(const AttentionCase& one)
      : offsets(one.lengths.size() + 1),
        form{.query_heads = one.query_heads,
             .kv_heads = one.kv_heads,
             .head_size = one.head_size,
             .scale = 1 / std::sqrt(static_cast<float>(one.head_size)),
             .mask = one.mask} {
    std::partial_sum(one.lengths.begin(), one.lengths.end(), offsets.begin() + 1);
    form.offsets = offsets;
    const int64_t rows = offsets.back(), width = int64_t{one.query_heads} * one.head_size;
    const int64_t kv_width = int64_t{one.kv_heads} * one.head_size;
    query = random_tensor({rows, width}, 1, one.spread);
    key = random_tensor({rows, kv_width}, 2);
    value = random_tensor({rows, kv_width}, 3);
    gradient = random_tensor({rows, width}, 4);
  }
  AttentionProblem(const AttentionProblem&) = delete;
  AttentionProblem& operator=(const AttentionProblem&) = delete;

  void run() {
    for (const Tensor* tensor : {&query, &key, &value}) tensor->set_requires_grad(true);
    output = attention(query, key, value, form);
    output.backward(gradient);
    output = output.detach();
  }

  std::vector<int32_t> offsets;
  AttentionForm form;
  Tensor query, key, value, gradient, output;
};

// Values and gradients of the formula in f64, and how far f32 may be from them.
struct Expected {
  Tensor output, query, key, value;

  explicit Expected(const AttentionProblem& problem)
      : output(zeros(problem.query)),
        query(zeros(problem.query)),
        key(zeros(problem.key)),
        value(zeros(problem.value)) {}
  static Tensor zeros(const Tensor& like) { return at::zeros(like.sizes(), kDouble); }
};

// One head of a sequence of the problem, as f64.
struct Head {
  Tensor q, k, v, g;
  int64_t first, rows, query_at, kv_at;

  Head(const AttentionProblem& problem, size_t sequence, int64_t head)
      : first(problem.offsets[sequence]),
        rows(problem.offsets[sequence + 1] - first),
        query_at(head * problem.form.head_size),
        kv_at(head / (problem.form.query_heads / problem.form.kv_heads) * problem.form.head_size) {
    const int64_t size = problem.form.head_size;
    const auto part = [&](const Tensor& whole, int64_t at) {
      return whole.detach().narrow(0, first, rows).narrow(1, at, size).to(kDouble);
    };
    q = part(problem.query, query_at);
    k = part(problem.key, kv_at);
    v = part(problem.value, kv_at);
    g = part(problem.gradient, query_at);
  }
  void add(const Tensor& part, int64_t at, Tensor& whole) const {
    whole.narrow(0, first, rows).narrow(1, at, part.size(1)).add_(part);
  }
};

Tensor scores(const AttentionForm& form, const Tensor& q, const Tensor& k) {
  Tensor s = q.matmul(k.t()) * form.scale;
  if (form.mask == Mask::kCausal) {
    s = s.masked_fill(at::ones({s.size(0), s.size(1)}, at::kBool).triu(1), -INFINITY);
  }
  return s;
}

// By torch's own operations and their gradients.
Expected plain_attention(const AttentionProblem& problem) {
  Expected expected(problem);
  for (size_t s = 0; s + 1 < problem.offsets.size(); ++s) {
    for (int64_t h = 0; h < problem.form.query_heads; ++h) {
      Head head(problem, s, h);
      if (head.rows == 0) continue;
      for (const Tensor* tensor : {&head.q, &head.k, &head.v}) tensor->set_requires_grad(true);
      const Tensor o = scores(problem.form, head.q, head.k).softmax(1).matmul(head.v);
      o.backward(head.g);
      head.add(o.detach(), head.query_at, expected.output);
      head.add(head.q.grad(), head.query_at, expected.query);
      head.add(head.k.grad(), head.kv_at, expected.key);
      head.add(head.v.grad(), head.kv_at, expected.value);
    }
  }
  return expected;
}

// A sum of n products has n + 2 roundings at most. An error e of scores, of at most |s| rounded
// too, is a relative error e of P and, through LSE, another; what is left is the exponential's, the
// reciprocal's and the sum's over the keys.
Expected bounds(const AttentionProblem& problem) {
  Expected bound(problem);
  const auto size = static_cast<double>(problem.form.head_size);
  const double scale = problem.form.scale;
  for (size_t s = 0; s + 1 < problem.offsets.size(); ++s) {
    for (int64_t h = 0; h < problem.form.query_heads; ++h) {
      const Head head(problem, s, h);
      if (head.rows == 0) continue;
      const auto keys = static_cast<double>(head.rows);
      const Tensor p = scores(problem.form, head.q, head.k).softmax(1);
      const Tensor q = head.q.abs(), k = head.k.abs(), v = head.v.abs(), g = head.g.abs();
      const Tensor row_bound = (q.matmul(k.t()) * scale).amax(1, true) * (size + 8) * kEpsilon;
      const Tensor relative = 2 * row_bound + (keys + 16) * kEpsilon;
      const Tensor output = (relative + (keys + 2) * kEpsilon) * p.matmul(v);
      // Of dP - D, whose parts are as large as `inner`.
      const Tensor mean = (g * p.matmul(v)).sum(1, true), inner = g.matmul(v.t()) + mean;
      const Tensor error = (g * output).sum(1, true) + (size + 4) * kEpsilon * inner;
      const Tensor ds = p * (relative * inner + error), largest = p * inner;
      head.add(output, head.query_at, bound.output);
      head.add(((p * relative).t() + (keys + 2) * kEpsilon * p.t()).matmul(g), head.kv_at,
               bound.value);
      head.add(scale * (ds + (keys + 4) * kEpsilon * largest).matmul(k), head.query_at,
               bound.query);
      head.add(scale * (ds + (keys + 4) * kEpsilon * largest).t().matmul(q), head.kv_at, bound.key);
    }
  }
  return bound;
}

void check(AttentionProblem& problem) {
  problem.run();
  const Expected expected = plain_attention(problem), bound = bounds(problem);
  // Probabilities below the smallest normal f32 are 0.
  const double least = FLT_MIN;
  expect_within(problem.output, expected.output, bound.output + least);
  expect_within(problem.query.grad(), expected.query, bound.query + least);
  expect_within(problem.key.grad(), expected.key, bound.key + least);
  expect_within(problem.value.grad(), expected.value, bound.value + least);
}

TEST(Attention, EqualsPlainOperations) {
  const AttentionCase cases[] = {
      {{1}, 1, 1, 1, Mask::kNone},
      {{0, 1, 2, 0}, 2, 2, 8, Mask::kNone},
      {{7, 1, 64, 65, 0, 130}, 3, 3, 32, Mask::kNone},
      {{7, 1, 64, 65, 0, 130}, 4, 2, 20, Mask::kCausal},
      {{63, 15, 16, 17}, 6, 1, 40, Mask::kCausal},
      {{33}, 4, 4, 128, Mask::kNone},
      {{129, 300}, 2, 1, 64, Mask::kCausal},
      {{50, 20}, 2, 2, 16, Mask::kNone, 30},    // peaked
      {{50, 20}, 2, 2, 16, Mask::kCausal, 30},  // peaked
      {{50, 20}, 2, 2, 16, Mask::kNone, 0},     // flat
  };
  for (const AttentionCase& one : cases) {
    SCOPED_TRACE(testing::Message()
                 << one.lengths.size() << " sequences, " << one.query_heads << " heads of "
                 << one.head_size << ", " << (one.mask == Mask::kCausal ? "causal" : "all")
                 << ", spread " << one.spread);
    AttentionProblem problem(one);
    check(problem);
  }
}

// Blocks of fewer query rows.
TEST(Attention, EqualsPlainOperationsInLongSequences) {
  for (const Mask mask : {Mask::kNone, Mask::kCausal}) {
    AttentionProblem problem({{2500}, 1, 1, 8, mask});
    check(problem);
  }
}

// The sum of gradient * output, by plain sums in double.
double weighted_output(const AttentionProblem& problem, const std::vector<double> (&inputs)[3]) {
  const AttentionForm& form = problem.form;
  const int64_t width = problem.query.size(1), kv_width = problem.key.size(1);
  const float* weights = problem.gradient.data_ptr<float>();
  double total = 0;
  for (size_t s = 0; s + 1 < problem.offsets.size(); ++s) {
    for (int64_t row = problem.offsets[s]; row < problem.offsets[s + 1]; ++row) {
      const int64_t end = form.mask == Mask::kCausal ? row + 1 : problem.offsets[s + 1];
      for (int64_t h = 0; h < form.query_heads; ++h) {
        const int64_t at = h * form.head_size;
        const int64_t kv_at = h / (form.query_heads / form.kv_heads) * form.head_size;
        double sum = 0, weighted = 0;
        for (int64_t key = problem.offsets[s]; key < end; ++key) {
          double score = 0, product = 0;
          for (int64_t i = 0; i < form.head_size; ++i) {
            const auto kv = static_cast<size_t>(key * kv_width + kv_at + i);
            score += inputs[0][static_cast<size_t>(row * width + at + i)] * inputs[1][kv];
            product += weights[row * width + at + i] * inputs[2][kv];
          }
          const double p = std::exp(score * form.scale);
          sum += p;
          weighted += p * product;
        }
        total += weighted / sum;
      }
    }
  }
  return total;
}

// Central differences are wrong by h^2 / 6 times a third derivative, here at most some hundred.
TEST(Attention, GradientsAreDifferences) {
  constexpr double kTolerance = 1e-7;
  for (const Mask mask : {Mask::kNone, Mask::kCausal}) {
    AttentionProblem problem({{5, 1, 9}, 4, 2, 3, mask});
    problem.run();
    const Expected bound = bounds(problem);
    const Tensor tensors[] = {problem.query, problem.key, problem.value};
    const Tensor tolerances[] = {bound.query, bound.key, bound.value};
    std::vector<double> inputs[3];
    for (int i = 0; i < 3; ++i) inputs[i] = values_of(tensors[i]);
    for (int i = 0; i < 3; ++i) {
      const Tensor expected =
          differences(inputs[i], tensors[i], [&] { return weighted_output(problem, inputs); });
      expect_within(tensors[i].grad(), expected, tolerances[i] + kTolerance);
    }
  }
}

TEST(Attention, EqualRunsGiveEqualBits) {
  const AttentionCase one = {{100, 3, 77, 200, 31}, 4, 2, 32, Mask::kCausal};
  AttentionProblem first(one), second(one);
  first.run();
  second.run();
  EXPECT_TRUE(first.output.equal(second.output));
  EXPECT_TRUE(first.query.grad().equal(second.query.grad()));
  EXPECT_TRUE(first.key.grad().equal(second.key.grad()));
  EXPECT_TRUE(first.value.grad().equal(second.value.grad()));
}

TEST(Attention, ReadsInputsThatAreNotContiguous) {
  const AttentionCase one = {{10, 20}, 2, 2, 8, Mask::kNone};
  AttentionProblem whole(one), parts(one);
  const Tensor stacked = at::cat({parts.query, parts.key, parts.value}, 1);
  whole.output = attention(whole.query, whole.key, whole.value, whole.form);
  const Tensor output = attention(stacked.narrow(1, 0, 16), stacked.narrow(1, 16, 16),
                                  stacked.narrow(1, 32, 16), parts.form);
  EXPECT_TRUE(output.equal(whole.output));
}

TEST(Attention, RefusesAnotherShape) {
  AttentionProblem problem({{10, 20}, 2, 2, 8, Mask::kNone});
  problem.form.head_size = 9;
  EXPECT_THROW(attention(problem.query, problem.key, problem.value, problem.form), c10::Error);
}

}  // namespace
}  // namespace tessera::training
