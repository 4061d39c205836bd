#include <cmath>
#include <cstring>
#include <limits>

#include "base/device.h"
#include "formats/integer_rows.h"
#include "formats/packed.h"
#include "kernels/group_matmul/group_matmul.h"
#include "kernels/testing.h"
#include "linear/linear.h"

namespace tessera {
namespace {

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// A stack of matrices that were rounded to integers with scales for groups.
class Stack {
 public:
  Stack(int64_t inputs, Precision precision, int32_t group)
      : inputs_(inputs), precision_(precision), group_(group) {}

  void add(int64_t outputs, uint32_t seed) {
    const std::vector<float> values = testing::random_values(outputs * inputs_, seed);
    packed_.push_back(
        pack_quantized({values.data(), DType::kF32, outputs, inputs_}, precision_, group_).value());
    dense_.resize(static_cast<size_t>((total_ + outputs) * inputs_));
    to_dense(packed_.back().matrix, dense_.data() + total_ * inputs_);
    total_ += outputs;
  }
  // So that x is divided by these before it is rounded.
  void scale_inputs(std::vector<float> scales) {
    for (int64_t i = 0; i < total_ * inputs_; ++i)
      dense_[static_cast<size_t>(i)] /= scales[static_cast<size_t>(i % inputs_)];
    for (PackedMatrix& packed : packed_) set_scales(".input_scales", scales, packed);
    input_scales_ = std::move(scales);
  }

  MatrixStack matrices() const {
    MatrixStack all;
    for (const PackedMatrix& packed : packed_) all.push_back(packed.matrix);
    return all;
  }
  int64_t inputs() const { return inputs_; }
  int64_t total() const { return total_; }
  int64_t packed_bytes() const {
    int64_t total = 0;
    for (const PackedMatrix& packed : packed_) total += tessera::packed_bytes(packed.matrix);
    return total;
  }

  // The product of one row with one output, and how far it may be off: an input is within 0.51
  // scales of its block, and the blocks are added up in f32.
  std::pair<double, double> product(const float* x, int64_t output) const {
    const int64_t group = group_ == 0 || group_ > inputs_ ? inputs_ : group_;
    const double most = tessera::most(has_integer_rows(precision_) && hardware_has(Isa::kAvx512Vnni)
                                          ? RowForm::k8
                                          : RowForm::k16);
    double sum = 0, size = 0, rounding = 0;
    for (int64_t begin = 0; begin < inputs_; begin += group) {
      const int64_t end = std::min(begin + group, inputs_);
      double largest = 0, weights = 0;
      for (int64_t k = begin; k < end; ++k) {
        const double scale = input_scales_.empty() ? 1 : input_scales_[static_cast<size_t>(k)];
        const double weight = dense_[static_cast<size_t>(output * inputs_ + k)];
        sum += x[k] * weight;
        size += std::abs(x[k] * weight);
        largest = std::max(largest, std::abs(x[k] / scale));
        weights += std::abs(weight * scale);
      }
      rounding += 0.51 * largest / most * weights;
    }
    const double blocks = static_cast<double>(inputs_) / 8 + 1;
    return {sum, rounding + (blocks / 2 + 12) * kEpsilon * (size + rounding + 8)};
  }

 private:
  int64_t inputs_;
  Precision precision_;
  int32_t group_;
  int64_t total_ = 0;
  std::vector<PackedMatrix> packed_;
  std::vector<float> dense_, input_scales_;
};

// Rows, and where a product of them goes.
struct Call {
  Call(const Stack& stack, int64_t of_rows)
      : rows(of_rows),
        x_stride(stack.inputs() + 1),
        y_stride(stack.total() + 2),
        x(testing::random_values(rows * x_stride, 72)),
        residual(testing::random_values(rows * y_stride, 73)) {}

  std::vector<float> run(const Linear& map, Team& team) const {
    std::vector<float> y(residual.size(), kNaN);
    const LinearArgs args = this->args(y);
    const Buffer converted = memory(map.converted_bytes(rows));
    std::vector<Buffer> scratch;
    for (int i = 0; i < team.size(); ++i) scratch.push_back(memory(map.scratch_bytes(rows)));
    team.run([&](Team::Member& member) {
      LinearArgs own = args;
      own.scratch = scratch[static_cast<size_t>(member.rank())].data();
      apply_shared(map, own, converted.data(), member);
    });
    return y;
  }
  std::vector<float> run_alone(const Linear& map) const {
    std::vector<float> y(residual.size(), kNaN);
    LinearArgs args = this->args(y);
    const Buffer converted = memory(map.converted_bytes(rows));
    const Buffer scratch = memory(map.scratch_bytes(rows));
    if (map.converted_bytes(rows) > 0) map.convert_rows(args, {0, rows}, converted.data());
    args.converted = converted.data();
    args.scratch = scratch.data();
    map.apply_alone(args);
    return y;
  }

  int64_t rows, x_stride, y_stride;
  std::vector<float> x, residual;

 private:
  static Buffer memory(int64_t bytes) { return host_device().allocate(static_cast<size_t>(bytes)); }
  LinearArgs args(std::vector<float>& y) const {
    return {.x = x.data(),
            .x_stride = x_stride,
            .rows = rows,
            .activation = Activation::kRelu,
            .residual = residual.data(),
            .residual_stride = y_stride,
            .y = y.data(),
            .y_stride = y_stride};
  }
};

void check_product(const Stack& stack, const std::vector<float>& bias, const Call& call,
                   const std::vector<float>& y) {
  for (int64_t m = 0; m < call.rows; ++m) {
    for (int64_t n = 0; n < call.y_stride; ++n) {
      const float found = y[static_cast<size_t>(m * call.y_stride + n)];
      if (n >= stack.total()) {
        ASSERT_TRUE(std::isnan(found)) << "wrote outside, row " << m;
        continue;
      }
      const auto [product, bound] = stack.product(call.x.data() + m * call.x_stride, n);
      const double sum = product + bias[static_cast<size_t>(n)];
      const double expected =
          std::max(sum, 0.0) + call.residual[static_cast<size_t>(m * call.y_stride + n)];
      ASSERT_NEAR(expected, found, bound) << "row " << m << " output " << n;
    }
  }
}

void check_stack(const Stack& stack, Precision precision) {
  const std::vector<float> bias = testing::random_values(stack.total(), 71);
  for (const int64_t rows : {0, 1, 3, 40, 130}) {
    SCOPED_TRACE(std::to_string(rows) + " rows");
    const Call call(stack, rows);
    std::vector<float> first;
    for (const int threads : {1, 2, 3}) {
      Team team(threads);
      const auto map = prepare_linear(stack.matrices(), bias.data(), precision, team);
      ASSERT_TRUE(map.ok()) << map.status().message();
      const std::vector<float> y = call.run(**map, team);
      if (threads == 1) {
        ASSERT_NO_FATAL_FAILURE(check_product(stack, bias, call, y));
        first = y;
        const std::vector<float> alone = call.run_alone(**map);
        ASSERT_TRUE(same_bits(first, alone));
      }
      ASSERT_TRUE(same_bits(first, y)) << threads << " threads give other bits than one";
    }
  }
}

TEST(Groups, ProductsOfStacksOnTeamsOfEverySize) {
  for (const Precision precision : {Precision::kW4, Precision::kW8, Precision::kInt4}) {
    for (const int32_t group : {0, 7, 32, 64, 200}) {
      for (const int64_t inputs : {33, 520}) {
        SCOPED_TRACE(std::string(name(precision)) + " in groups of " + std::to_string(group) +
                     ", " + std::to_string(inputs) + " inputs");
        Stack stack(inputs, precision, group);
        stack.add(64, 1);
        stack.add(30, 2);
        stack.add(71, 3);
        ASSERT_NO_FATAL_FAILURE(check_stack(stack, precision));
      }
    }
  }
}

TEST(Groups, BytesWithGroupsAndRowsOfBytes) {
  Stack stack(300, Precision::kInt8, 50);
  stack.add(100, 5);
  ASSERT_NO_FATAL_FAILURE(check_stack(stack, Precision::kInt8));
}

TEST(Groups, InputsMayHaveScalesOfTheirOwn) {
  for (const Precision precision : {Precision::kInt4, Precision::kW8}) {
    Stack stack(96, precision, 32);
    stack.add(80, 8);
    std::vector<float> scales = testing::random_values(96, 9);
    for (float& scale : scales) scale = std::exp(scale);
    stack.scale_inputs(std::move(scales));
    ASSERT_NO_FATAL_FAILURE(check_stack(stack, precision));
  }
}

TEST(Groups, DenseMatricesAreRounded) {
  Team team(1);
  const std::vector<float> values = testing::random_values(70 * 64, 4);
  const DenseView dense{values.data(), DType::kF32, 70, 64};
  Stack stack(64, Precision::kW4, 32);
  stack.add(70, 4);
  const Call call(stack, 5);
  const auto rounded = prepare_linear({dense}, nullptr, Precision::kW4, team);
  const auto stored = prepare_linear(stack.matrices(), nullptr, Precision::kStored, team);
  ASSERT_TRUE(rounded.ok() && stored.ok());
  const std::vector<float> a = call.run(**rounded, team), b = call.run(**stored, team);
  EXPECT_EQ(0, std::memcmp(a.data(), b.data(), a.size() * sizeof(float)));
}

// What the map rounds one row to whose first input alone is not 0, so that an integer of 16 bits
// has a second byte; few rows are rounded alone, unless they have this many inputs.
constexpr int64_t kManyInputs = 20000;
RowForm form_of_one_row(const Linear& map) {
  std::vector<float> x(kManyInputs);
  x.front() = 1;
  const Buffer rounded = host_device().allocate(static_cast<size_t>(map.converted_bytes(1)));
  map.convert_rows({.x = x.data(), .x_stride = kManyInputs, .rows = 1}, {0, 1}, rounded.data());
  return rounded.as<char>()[1] != 0 ? RowForm::k16 : RowForm::k16Split;
}

// Else another kernel runs them.
TEST(Groups, RowsAreRoundedAsAForcedKernelTakesThem) {
  Team team(1);
  for (const Precision precision : {Precision::kW4, Precision::kInt4}) {
    Stack stack(kManyInputs, precision, 32);
    stack.add(16, 1);
    for (const auto& row : group_matmul::kernels.rows()) {
      if (!available(row.isa)) continue;
      SCOPED_TRACE(std::string(name(precision)) + " with " + row.name);
      const testing::Forced forced(std::string("group_matmul:") + row.name);
      const auto map = prepare_linear(stack.matrices(), nullptr, precision, team);
      ASSERT_TRUE(map.ok());
      EXPECT_EQ((*map)->info().kernel, std::string("group_matmul:") + row.name);
      EXPECT_EQ(row.refuse({.x = {.form = form_of_one_row(**map)}}), nullptr);
    }
  }
}

// Who calls with fewer rows than memory was made for has enough.
TEST(Groups, MemoryForRowsIsEnoughForFewer) {
  Team team(1);
  for (const Precision precision : {Precision::kW4, Precision::kInt4}) {
    for (const int64_t inputs : {33, 256, 520, 20000}) {
      Stack stack(inputs, precision, 32);
      stack.add(16, 1);
      const auto map = prepare_linear(stack.matrices(), nullptr, precision, team);
      ASSERT_TRUE(map.ok());
      for (int64_t rows = 1; rows < 600; ++rows) {
        EXPECT_LE((*map)->scratch_bytes(rows - 1), (*map)->scratch_bytes(rows))
            << rows << " rows of " << inputs;
      }
    }
  }
}

TEST(Groups, InfoSaysWhatIsKept) {
  Team team(1);
  for (const Precision precision : {Precision::kW4, Precision::kW8, Precision::kInt4}) {
    Stack stack(256, precision, 32);
    stack.add(128, 1);
    const std::vector<float> bias(128, 1.0f);
    const auto map = prepare_linear(stack.matrices(), bias.data(), precision, team);
    ASSERT_TRUE(map.ok());
    const LinearInfo info = (*map)->info();
    EXPECT_EQ(info.format, std::string(name(precision)) + " in groups of 32");
    EXPECT_EQ(info.kernel.find("group_matmul:"), 0u) << info.kernel;
    EXPECT_EQ(info.inputs, 256);
    EXPECT_EQ(info.outputs, 128);
    // Whole panels and blocks: the values and scales of the matrix, each once.
    EXPECT_EQ(info.bytes, stack.packed_bytes() + 128 * 4);
    EXPECT_EQ(info.flops_per_row, 2 * 256 * 128);
    EXPECT_EQ(info.dense_flops_per_row, 2 * 256 * 128);
  }
}

}  // namespace
}  // namespace tessera
