#include <cmath>
#include <limits>

#include "base/device.h"
#include "kernels/testing.h"
#include "linear/linear.h"

namespace tessera {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// A stack of f32 matrices with the values it holds, in the order its members say.
struct Stack {
  explicit Stack(int64_t stack_inputs, uint32_t seed)
      : inputs(stack_inputs), generator_seed(seed) {}

  void add(int64_t outputs, MatrixOrder order) {
    const bool by_output = order == MatrixOrder::kOutputRows;
    values.push_back(testing::random_values(outputs * inputs, generator_seed++));
    views.push_back(
        {nullptr, DType::kF32, by_output ? outputs : inputs, by_output ? inputs : outputs, order});
    total += outputs;
    for (size_t i = 0; i < views.size(); ++i) views[i].data = values[i].data();
  }
  float weight(int64_t output, int64_t input, DType stored) const {
    size_t part = 0;
    while (output >= views[part].outputs()) output -= views[part++].outputs();
    const bool by_output = views[part].order == MatrixOrder::kOutputRows;
    const float value =
        values[part][by_output ? output * inputs + input : input * views[part].cols + output];
    return stored == DType::kF32 ? value : bf16_to_f32(f32_to_bf16(value));
  }

  int64_t inputs, total = 0;
  uint32_t generator_seed;
  std::vector<std::vector<float>> values;
  DenseStack views;
};

void apply(const Linear& linear, const LinearArgs& args, Team& team) {
  const Buffer converted =
      host_device().allocate(static_cast<size_t>(linear.converted_bytes(args.rows) + 64));
  team.run([&](Team::Member& member) { apply_shared(linear, args, converted.data(), member); });
}

bool reads_bf16_rows(const Linear& linear, int64_t rows) {
  return linear.converted_bytes(rows) > 0;
}

void check_product(const Stack& stack, int64_t rows, Precision precision, Team& team) {
  SCOPED_TRACE(std::to_string(rows) + " rows, " + std::string(name(precision)) + ", " +
               std::to_string(team.size()) + " threads");
  const DType stored = float_type(precision, DType::kF32);
  const std::vector<float> bias = testing::random_values(stack.total, 71);
  const Result<std::unique_ptr<Linear>> made =
      prepare_dense(stack.views, bias.data(), precision, team);
  ASSERT_TRUE(made.ok()) << made.status().message();
  const bool rounded = reads_bf16_rows(**made, rows);
  const int64_t x_stride = stack.inputs + 1, y_stride = stack.total + 2;
  const std::vector<float> x = testing::random_values(rows * x_stride, 72);
  const std::vector<float> residual = testing::random_values(rows * y_stride, 73);
  std::vector<float> y(residual.size(), kNaN), again(residual.size(), kNaN);
  LinearArgs args{.x = x.data(),
                  .x_stride = x_stride,
                  .rows = rows,
                  .activation = Activation::kRelu,
                  .residual = residual.data(),
                  .residual_stride = y_stride,
                  .y = y.data(),
                  .y_stride = y_stride};
  apply(**made, args, team);
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < stack.total; ++n) {
      double sum = bias[n], size = std::abs(bias[n]);
      for (int64_t k = 0; k < stack.inputs; ++k) {
        const float value = x[m * x_stride + k];
        const double term =
            double{rounded ? bf16_to_f32(f32_to_bf16(value)) : value} * stack.weight(n, k, stored);
        sum += term;
        size += std::abs(term);
      }
      const double expected = std::max(sum, 0.0) + residual[m * y_stride + n];
      const double bound =
          (static_cast<double>(stack.inputs) / 2 + 9) * kEpsilon * (size + std::abs(expected));
      ASSERT_NEAR(expected, y[m * y_stride + n], bound) << "row " << m << " output " << n;
    }
    for (int64_t n = stack.total; n < y_stride; ++n) {
      ASSERT_TRUE(std::isnan(y[m * y_stride + n])) << "wrote outside, row " << m;
    }
  }
  args.y = again.data();
  apply(**made, args, team);
  for (size_t i = 0; i < y.size(); ++i) {
    if (std::isnan(y[i])) continue;
    ASSERT_EQ(y[i], again[i]) << "a second run differs at " << i;
  }
}

TEST(Dense, StacksOfBothOrdersOnTeamsOfEverySize) {
  for (const int threads : {1, 2, 3}) {
    Team team(threads);
    for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
      for (const int64_t rows : {0, 1, 3, 13, 70}) {
        Stack one(33, 1), three(100, 2), wide(17, 3);
        one.add(5, MatrixOrder::kOutputRows);
        three.add(64, MatrixOrder::kOutputRows);
        three.add(30, MatrixOrder::kInputRows);
        three.add(70, MatrixOrder::kOutputRows);
        wide.add(333, MatrixOrder::kInputRows);
        for (const Stack* stack : {&one, &three, &wide}) {
          ASSERT_NO_FATAL_FAILURE(check_product(*stack, rows, precision, team));
        }
      }
    }
  }
}

// One map of 200 outputs and 100 inputs.
Result<std::unique_ptr<Linear>> one_map(const std::vector<float>& weights, DType dtype,
                                        Precision precision, Team& team) {
  std::vector<uint16_t> narrow;
  for (const float weight : weights) narrow.push_back(f32_to_bf16(weight));
  const void* data = dtype == DType::kBF16 ? static_cast<const void*>(narrow.data())
                                           : static_cast<const void*>(weights.data());
  return prepare_dense({{data, dtype, 200, 100}}, nullptr, precision, team);
}

std::vector<float> product_of(const Linear& linear, const std::vector<float>& x, Team& team) {
  const auto rows = static_cast<int64_t>(x.size() / 100);
  std::vector<float> y(static_cast<size_t>(rows * 200), kNaN);
  apply(linear, {.x = x.data(), .x_stride = 100, .rows = rows, .y = y.data(), .y_stride = 200},
        team);
  return y;
}

// Few rows keep their floats, many are rounded where the CPU is faster so; neither depends on who
// does which part.
TEST(Dense, BothFormsOfRowsGiveTheSameBitsOnEveryTeam) {
  const std::vector<float> weights = testing::random_values(200 * 100, 5);
  for (const char* kernel : {"", "matmul:avx512", "bf16_matmul:avx512_bf16", "bf16_matmul:ref"}) {
    force_kernel(kernel);
    for (const int64_t rows : {12, 96, 130}) {
      SCOPED_TRACE(std::string(kernel) + ", " + std::to_string(rows) + " rows");
      const std::vector<float> x = testing::random_values(rows * 100, 6);
      Team alone(1);
      const auto expected = one_map(weights, DType::kF32, Precision::kBF16, alone);
      ASSERT_TRUE(expected.ok());
      const std::vector<float> whole = product_of(**expected, x, alone);
      for (const int threads : {2, 3}) {
        Team team(threads);
        const auto made = one_map(weights, DType::kF32, Precision::kBF16, team);
        ASSERT_TRUE(made.ok());
        EXPECT_EQ(reads_bf16_rows(**expected, rows), reads_bf16_rows(**made, rows));
        EXPECT_EQ(whole, product_of(**made, x, team)) << threads << " threads";
      }
    }
  }
  force_kernel("");
}

TEST(Dense, OnlyTheKernelsOfBf16RowsRoundThem) {
  Team team(1);
  const std::vector<float> weights(200 * 100, 1.0f);
  const auto rows_are_bf16 = [&](const char* kernel, DType dtype, Precision precision) {
    force_kernel(kernel);
    const auto made = one_map(weights, dtype, precision, team);
    force_kernel("");
    EXPECT_TRUE(made.ok());
    EXPECT_FALSE(reads_bf16_rows(**made, 1));
    const std::string kernels = (*made)->info().kernel;
    const bool rounds = reads_bf16_rows(**made, 128);
    EXPECT_EQ(rounds, kernels.find("bf16_matmul:") != std::string::npos) << kernels;
    return rounds;
  };
  EXPECT_TRUE(rows_are_bf16("bf16_matmul:ref", DType::kF32, Precision::kBF16));
  EXPECT_FALSE(rows_are_bf16("matmul:ref", DType::kF32, Precision::kBF16));
  EXPECT_EQ(hardware_has(Isa::kAmx),
            rows_are_bf16("", DType::kF32, Precision::kBF16) && hardware_has(Isa::kAmx));
  // As stored is exact, whatever there is.
  EXPECT_FALSE(rows_are_bf16("bf16_matmul:ref", DType::kBF16, Precision::kStored));
  EXPECT_FALSE(rows_are_bf16("bf16_matmul:ref", DType::kF32, Precision::kF32));
}

TEST(Dense, AsStoredKeepsBf16AloneAndF32Exact) {
  Team team(1);
  const std::vector<float> weights = testing::random_values(200 * 100, 5);
  EXPECT_EQ((*one_map(weights, DType::kBF16, Precision::kStored, team))->info().format,
            "dense bf16");
  EXPECT_EQ((*one_map(weights, DType::kF32, Precision::kStored, team))->info().format, "dense f32");
  const std::vector<uint16_t> narrow(200 * 100, 0x3f80);
  const DenseStack both = {{narrow.data(), DType::kBF16, 200, 100},
                           {weights.data(), DType::kF32, 200, 100}};
  EXPECT_EQ((*prepare_dense(both, nullptr, Precision::kStored, team))->info().format, "dense f32");
}

TEST(Dense, InfoCountsBytesAndWork) {
  Team team(1);
  Stack stack(20, 1);
  stack.add(70, MatrixOrder::kOutputRows);
  const std::vector<float> bias(70, 1.0f);
  const Result<std::unique_ptr<Linear>> made =
      prepare_dense(stack.views, bias.data(), Precision::kBF16, team);
  ASSERT_TRUE(made.ok());
  const LinearInfo info = (*made)->info();
  EXPECT_EQ(info.format, "dense bf16");
  EXPECT_EQ(info.inputs, 20);
  EXPECT_EQ(info.outputs, 70);
  // Two panels of 64 outputs by 32 inputs, and 128 floats of bias.
  EXPECT_EQ(info.bytes, 2 * 64 * 32 * 2 + 128 * 4);
  EXPECT_EQ(info.flops_per_row, 2 * 20 * 70);
  EXPECT_EQ(info.dense_flops_per_row, 2 * 20 * 70);
  EXPECT_EQ(info.kernel.find("matmul:"), 0u) << info.kernel;
}

// The message of a refusal; empty when it was none.
std::string refusal(const DenseStack& stack, Precision precision) {
  Team team(1);
  const Result<std::unique_ptr<Linear>> made = prepare_dense(stack, nullptr, precision, team);
  return made.ok() ? "" : made.status().message();
}

TEST(Dense, RefusesWhatItCannotPack) {
  const std::vector<float> data(64, 1.0f);
  const DenseView good{data.data(), DType::kF32, 8, 8};
  EXPECT_EQ(refusal({good}, Precision::kF32), "");
  EXPECT_NE(refusal({}, Precision::kF32).find("empty"), std::string::npos);
  EXPECT_NE(refusal({good}, Precision::kInt8).find("int8"), std::string::npos);
  EXPECT_NE(refusal({{data.data(), DType::kI32, 8, 8}}, Precision::kF32).find("I32"),
            std::string::npos);
  EXPECT_NE(refusal({{nullptr, DType::kF32, 8, 8}}, Precision::kF32).find("none"),
            std::string::npos);
  EXPECT_NE(refusal({{data.data(), DType::kF32, 0, 8}}, Precision::kF32).find("0 x 8"),
            std::string::npos);
  EXPECT_NE(refusal({good, {data.data(), DType::kF32, 8, 7}}, Precision::kF32).find("found 7"),
            std::string::npos);
}

TEST(Dense, SaysWhenMemoryIsShort) {
  // The largest allowed shape, 2^60 values, which no machine holds; the source is never read.
  const int64_t largest = int64_t{1} << 30;
  const float one = 1;
  const std::string message = refusal({{&one, DType::kF32, largest, largest}}, Precision::kBF16);
  EXPECT_NE(message.find("bytes"), std::string::npos) << message;
}

}  // namespace
}  // namespace tessera
