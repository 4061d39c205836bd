#include <cmath>
#include <limits>

#include "base/device.h"
#include "formats/packed.h"
#include "formats/u8_rows.h"
#include "kernels/int8_matmul/int8_matmul.h"
#include "kernels/testing.h"
#include "linear/formats.h"

namespace tessera {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// A stack of matrices rounded to 8 bits, with the floats they were rounded from: f32 [outputs,
// inputs], divided by the input scales where there are any.
struct Stack {
  Stack(int64_t stack_inputs, const std::vector<int64_t>& outputs, uint32_t seed)
      : inputs(stack_inputs), input_scales(testing::random_values(inputs, seed + 100)) {
    for (float& scale : input_scales) scale = 0.5f + std::abs(scale);
    for (const int64_t count : outputs) {
      values.push_back(testing::random_values(count * inputs, seed++));
      const DenseView dense{values.back().data(), DType::kF32, count, inputs};
      packed.push_back(pack_quantized(dense, Precision::kInt8, 0).value());
      matrices.push_back(get<QuantizedMatrix>(packed.back().matrix));
      total += count;
    }
  }
  void scale_inputs() {
    for (QuantizedMatrix& matrix : matrices) matrix.input_scales = input_scales.data();
  }
  // The matrix that an output belongs to, and which of its outputs it is.
  size_t find(int64_t& output) const {
    size_t part = 0;
    while (output >= matrices[part].outputs()) output -= matrices[part++].outputs();
    return part;
  }
  float multiplier(int64_t input) const {
    return matrices[0].input_scales == nullptr ? 1 : 1 / input_scales[static_cast<size_t>(input)];
  }

  int64_t inputs, total = 0;
  std::vector<float> input_scales;
  std::vector<std::vector<float>> values;
  std::vector<PackedMatrix> packed;
  QuantizedStack matrices;
};

// A call of a map with rows, residual and a place for its results.
struct Call {
  Call(const Stack& stack, int64_t rows)
      : x(testing::random_values(rows * (stack.inputs + 1), 72)),
        residual(testing::random_values(rows * (stack.total + 2), 73)),
        y(residual.size(), kNaN),
        layout(u8_rows_layout(rows, stack.inputs)),
        converted(host_device().allocate(static_cast<size_t>(layout.bytes) + 64)) {
    args = {.x = x.data(),
            .x_stride = stack.inputs + 1,
            .rows = rows,
            .activation = Activation::kRelu,
            .residual = residual.data(),
            .residual_stride = stack.total + 2,
            .y = y.data(),
            .y_stride = stack.total + 2};
  }
  void run(const Linear& linear, Team& team) {
    ASSERT_EQ(linear.converted_bytes(args.rows), layout.bytes);
    team.run([&](Team::Member& member) { apply_shared(linear, args, converted.data(), member); });
  }

  std::vector<float> x, residual, y;
  U8RowsLayout layout;
  Buffer converted;
  LinearArgs args;
};

struct Expected {
  double value;  // before the activation
  double bound;  // of what a kernel may differ from it
};

// The exact product of the integers, and the bound of kernels/int8_matmul, with that of the
// residual after it.
Expected of_integers(const Stack& stack, const Call& call, const float* bias, int64_t m,
                     int64_t n) {
  int64_t output = n;
  const QuantizedMatrix& matrix = stack.matrices[stack.find(output)];
  const U8Rows rows = rows_in(call.converted.data(), call.layout);
  int64_t sum = 0;
  for (int64_t k = 0; k < stack.inputs; ++k) {
    sum += (rows.values[m * rows.stride + k] - rows.zeros[m]) * int64_t{matrix.integer(output, k)};
  }
  const double value = double{rows.scales[m]} * matrix.scale(output, 0) * static_cast<double>(sum);
  const double size = std::abs(value) + std::abs(bias[n]);
  return {value + bias[n], (2.5 * size + size + 8) * kEpsilon};
}

// The f32 product, and what the roundings of rows (half a step and 2^-13 of one) and weights (half
// a step and 2^-16, for the division is rounded) may change of it.
Expected of_floats(const Stack& stack, const Call& call, const float* bias, int64_t m, int64_t n) {
  int64_t output = n;
  const size_t part = stack.find(output);
  const U8Rows rows = rows_in(call.converted.data(), call.layout);
  const double row_error = (0.5 + 0x1p-13) * rows.scales[m];
  const double weight_error = (0.5 + 0x1p-16) * stack.matrices[part].scale(output, 0);
  double sum = bias[n], bound = 0;
  for (int64_t k = 0; k < stack.inputs; ++k) {
    const float scaled =
        call.x[static_cast<size_t>(m * call.args.x_stride + k)] * stack.multiplier(k);
    const double x = scaled;
    const double w = stack.values[part][static_cast<size_t>(output * stack.inputs + k)];
    sum += x * w;
    bound += std::abs(w) * row_error + std::abs(x) * weight_error + row_error * weight_error;
  }
  return {sum, bound + 1e-6 * (std::abs(sum) + 8)};
}

void check_product(const Stack& stack, int64_t rows, Team& team) {
  SCOPED_TRACE(std::to_string(rows) + " rows of " + std::to_string(stack.inputs) + ", " +
               std::to_string(team.size()) + " threads");
  const std::vector<float> bias = testing::random_values(stack.total, 71);
  const Result<std::unique_ptr<Linear>> made = prepare_int8(stack.matrices, bias.data(), team);
  ASSERT_TRUE(made.ok()) << made.status().message();
  Call call(stack, rows);
  ASSERT_NO_FATAL_FAILURE(call.run(**made, team));
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < call.args.y_stride; ++n) {
      const auto at = static_cast<size_t>(m * call.args.y_stride + n);
      if (n >= stack.total) {
        ASSERT_TRUE(std::isnan(call.y[at])) << "wrote outside, row " << m;
        continue;
      }
      for (const auto& expect : {of_integers, of_floats}) {
        const Expected expected = expect(stack, call, bias.data(), m, n);
        const double value = std::max(expected.value, 0.0) + call.residual[at];
        ASSERT_NEAR(value, call.y[at], expected.bound) << "row " << m << " output " << n;
      }
    }
  }
}

TEST(Int8, StacksOnTeamsOfEverySize) {
  for (const int threads : {1, 2, 3}) {
    Team team(threads);
    for (const int64_t rows : {0, 1, 3, 13, 70}) {
      for (const bool scaled : {false, true}) {
        Stack one(33, {5}, 1), three(100, {64, 30, 70}, 2), wide(17, {333}, 3);
        for (Stack* stack : {&one, &three, &wide}) {
          if (scaled) stack->scale_inputs();
          ASSERT_NO_FATAL_FAILURE(check_product(*stack, rows, team));
        }
      }
    }
  }
}

TEST(Int8, TheSameBitsWhateverTheTeam) {
  const Stack stack(130, {200, 70}, 4);
  for (const int64_t rows : {1, 7, 64}) {
    std::vector<float> first;
    for (const int threads : {1, 2, 3, 4}) {
      Team team(threads);
      const auto linear = prepare_int8(stack.matrices, nullptr, team).value();
      Call call(stack, rows);
      ASSERT_NO_FATAL_FAILURE(call.run(*linear, team));
      for (float& value : call.y) value = std::isnan(value) ? 0 : value;
      if (first.empty()) first = call.y;
      ASSERT_EQ(first, call.y) << threads << " threads";
      // Alone, and with rows that were converted in parts.
      linear->convert_rows(call.args, {rows / 2, rows}, call.converted.data());
      linear->convert_rows(call.args, {0, rows / 2}, call.converted.data());
      call.args.converted = call.converted.data();
      linear->apply_alone(call.args);
      for (float& value : call.y) value = std::isnan(value) ? 0 : value;
      ASSERT_EQ(first, call.y);
    }
  }
}

TEST(Int8, PreparedFromFloatsByTheStack) {
  Team team(1);
  const std::vector<float> values = testing::random_values(70 * 20, 6);
  const DenseView dense{values.data(), DType::kF32, 70, 20};
  const std::vector<float> bias(70, 1.0f);
  const auto linear = prepare_linear({dense}, bias.data(), Precision::kInt8, team).value();
  const LinearInfo info = linear->info();
  EXPECT_EQ(info.format, "dense int8");
  EXPECT_EQ(info.kernel.find("int8_matmul:"), 0u) << info.kernel;
  EXPECT_EQ(info.inputs, 20);
  EXPECT_EQ(info.outputs, 70);
  // Two panels of 64 outputs by 64 inputs, and 128 scales, sums and biases.
  EXPECT_EQ(info.bytes, 2 * 64 * 64 + 3 * 128 * 4);
  EXPECT_EQ(info.flops_per_row, 2 * 20 * 70);
  EXPECT_EQ(info.dense_flops_per_row, 2 * 20 * 70);
}

TEST(Int8, RefusesSumsBeyond32Bits) {
  Team team(1);
  const std::vector<int8_t> values(static_cast<size_t>(int8_matmul::kMaxInputs + 1));
  const float scale = 1;
  const QuantizedMatrix matrix{
      .values = values.data(), .rows = 1, .cols = int8_matmul::kMaxInputs + 1, .scales = &scale};
  const auto made = prepare_int8({matrix}, nullptr, team);
  ASSERT_FALSE(made.ok());
  EXPECT_NE(made.status().message().find("found 65537"), std::string::npos)
      << made.status().message();
}

}  // namespace
}  // namespace tessera
