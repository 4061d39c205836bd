#include <cmath>
#include <tuple>

#include "base/device.h"
#include "formats/panels.h"
#include "kernels/bf16_matmul/bf16_matmul.h"
#include "kernels/matmul/matmul.h"
#include "kernels/product_testing.h"

namespace tessera::bf16_matmul {
namespace {

using testing::kEpsilon;
using testing::kNaN;

constexpr int64_t kRowCounts[] = {0, 1, 2, 5, 6, 7, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65};
constexpr int64_t kInputCounts[] = {1, 2, 31, 32, 33, 63, 64, 65, 100, 257};
constexpr int64_t kOutputCounts[] = {1, 16, 31, 63, 64, 65, 128, 200};

// A product with everything its arguments point at. x ends exactly after the last padded input of
// the last row, so that a sanitizer sees a read beyond it.
struct Problem {
  Problem(int64_t rows, int64_t inputs, int64_t outputs, uint32_t seed)
      : weights(testing::random_values(outputs * inputs, seed)),
        bias(testing::random_values(outputs, seed + 1)),
        y_stride(outputs + 3),
        residual(testing::random_values(rows * y_stride, seed + 2)) {
    for (float& weight : weights) weight = bf16_to_f32(f32_to_bf16(weight));
    const int64_t padded = panel_inputs(DType::kBF16, inputs), x_stride = padded + 6;
    x.assign(static_cast<size_t>(rows == 0 ? 0 : (rows - 1) * x_stride + padded), 0);
    const std::vector<float> values = testing::random_values(rows * inputs, seed + 3);
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t k = 0; k < inputs; ++k)
        x[static_cast<size_t>(m * x_stride + k)] =
            f32_to_bf16(values[static_cast<size_t>(m * inputs + k)]);
    }
    const int64_t panels = panel_count(outputs);
    packed = host_device().allocate(
        static_cast<size_t>(panels * panel_elements(DType::kBF16, inputs)) * sizeof(uint16_t));
    matmul::pack({{weights.data(), DType::kF32, outputs, inputs}}, DType::kBF16, packed.data(),
                 {0, panels});
    args = {.x = x.data(),
            .x_stride = x_stride,
            .rows = rows,
            .inputs = inputs,
            .panels = packed.data(),
            .outputs = outputs,
            .bias = bias.data(),
            .residual = residual.data(),
            .residual_stride = y_stride,
            .y_stride = y_stride};
  }

  float value(int64_t m, int64_t k) const {
    return bf16_to_f32(x[static_cast<size_t>(m * args.x_stride + k)]);
  }

  int64_t outputs() const { return args.outputs; }
  int64_t units() const { return panel_count(args.outputs); }

  // The header's bound with the activation's slope of at most 1.13 and its own bound of 8 eps, and
  // the residual's rounding. Values of order 1 lose nothing to the flush of tiny ones.
  float bound(int64_t m, int64_t n) const {
    double sum = std::fabs(static_cast<double>(bias[static_cast<size_t>(n)]));
    for (int64_t k = 0; k < args.inputs; ++k) {
      sum += std::fabs(static_cast<double>(value(m, k)) *
                       static_cast<double>(weights[static_cast<size_t>(n * args.inputs + k)]));
    }
    const double product = 1.13 * (static_cast<double>(args.inputs) / 2 + 8);
    return static_cast<float>((product + 8 + 2) * static_cast<double>(kEpsilon) * (sum + 8));
  }

  std::vector<float> weights, bias;
  int64_t y_stride;
  std::vector<float> residual;
  std::vector<uint16_t> x;
  Buffer packed;
  Args args;
};

// The reference of f32 rows reads the same panels.
TEST(Bf16Matmul, RefIsTheProductOfWidenedRows) {
  constexpr uint32_t kSeed = 1;
  SCOPED_TRACE(testing::seed_trace(kSeed));
  Problem problem(7, 65, 130, kSeed);
  std::vector<float> x;
  for (int64_t m = 0; m < 7; ++m) {
    for (int64_t k = 0; k < 65; ++k) x.push_back(problem.value(m, k));
  }
  std::vector<float> expected(problem.residual.size(), kNaN);
  matmul::ref({.x = x.data(),
               .x_stride = 65,
               .rows = 7,
               .inputs = 65,
               .panels = problem.packed.data(),
               .weight_type = DType::kBF16,
               .outputs = 130,
               .bias = problem.bias.data(),
               .activation = Activation::kGeluErf,
               .residual = problem.residual.data(),
               .residual_stride = problem.y_stride,
               .y = expected.data(),
               .y_stride = problem.y_stride},
              {0, 3});
  problem.args.activation = Activation::kGeluErf;
  EXPECT_TRUE(testing::same_bits(expected, testing::run_whole(problem, kernels.rows().back())));
}

TEST(Bf16Matmul, EveryRowAgreesWithRefAtEverySize) {
  uint32_t seed = 1;
  for (const int64_t rows : kRowCounts) {
    for (const int64_t inputs : kInputCounts) {
      for (const int64_t outputs : kOutputCounts) {
        Problem problem(rows, inputs, outputs, ++seed);
        testing::vary_epilogue(problem.args, seed);
        SCOPED_TRACE(testing::product_trace(problem.args, seed));
        ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
      }
    }
  }
}

TEST(Bf16Matmul, EveryEpilogue) {
  uint32_t seed = 1000;
  for (int choice = 0; choice < testing::kEpilogues; ++choice) {
    Problem problem(39, 100, 200, ++seed);
    testing::choose_epilogue(problem.args, choice);
    SCOPED_TRACE(testing::product_trace(problem.args, seed));
    ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
  }
}

// Several groups of rows and several chunks of inputs.
TEST(Bf16Matmul, ManyRowsAndInputs) {
  uint32_t seed = 2000;
  for (const auto& [rows, inputs, outputs] :
       {std::tuple{300, 300, 65}, {97, 1030, 70}, {40, 3072, 130}, {3, 2049, 130}}) {
    const Problem problem(rows, inputs, outputs, ++seed);
    SCOPED_TRACE(testing::product_trace(problem.args, seed));
    ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
  }
}

TEST(Bf16Matmul, ResidualMayBeTheOutput) {
  for (const int64_t rows : {1, 7, 65}) {
    const Problem problem(rows, 257, 200, 7);
    testing::check_residual_as_output(kernels, problem, testing::Agreement::kRounded);
  }
}

// However a product is dealt, by panels or by rows, and beside whichever rows: the same bits.
TEST(Bf16Matmul, PartsGiveTheSameBitsAsTheWhole) {
  const Problem problem(130, 600, 200, 11);
  testing::for_each_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
    testing::check_parts(problem, row, {1, 2, 3, 7, 16, 17, 34, 50},
                         {{3, 4}, {0, 1}, {1, 3}, {2, 2}});
  });
}

TEST(Bf16Matmul, PartsAtTheSameTime) {
  constexpr uint32_t kSeed = 77;
  SCOPED_TRACE(testing::seed_trace(kSeed));
  const Problem problem(48, 768, 512, kSeed);
  testing::for_each_fast_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
    const std::vector<float> expected = testing::run_whole(problem, row);
    for (int repeat = 0; repeat < 10; ++repeat)
      ASSERT_TRUE(testing::same_bits(expected, testing::run_halves_at_once(problem, row)));
  });
}

// What lies below 2^-126 may be lost, but no more than the header says.
TEST(Bf16Matmul, TinyValues) {
  constexpr uint32_t kSeed = 78;
  SCOPED_TRACE(testing::seed_trace(kSeed));
  Problem problem(20, 96, 64, kSeed);
  for (size_t i = 0; i < problem.x.size(); i += 3) problem.x[i] = static_cast<uint16_t>(i % 0x100);
  Args args = problem.args;
  args.bias = args.residual = nullptr;
  const std::vector<float> expected = testing::run_whole(problem, kernels.rows().back(), args);
  testing::for_each_fast_row(kernels, args, [&](const KernelRow<Args>& row) {
    const std::vector<float> found = testing::run_whole(problem, row, args);
    for (int64_t m = 0; m < args.rows; ++m) {
      for (int64_t n = 0; n < args.outputs; ++n) {
        const auto i = static_cast<size_t>(m * problem.y_stride + n);
        ASSERT_NEAR(expected[i], found[i], problem.bound(m, n) + 96 * 8 * 0x1p-126f);
      }
    }
  });
}

}  // namespace
}  // namespace tessera::bf16_matmul
