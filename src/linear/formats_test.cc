#include "linear/formats.h"

#include <cmath>
#include <limits>

#include "formats/weight_format.h"
#include "kernels/testing.h"

namespace tessera {
namespace {

constexpr int64_t kOutputs = 70, kInputs = 50;
constexpr double kEpsilon = std::numeric_limits<float>::epsilon();

// For every format, one matrix in it, alone and between others, and what it is written out.
class EveryFormat : public ::testing::TestWithParam<const WeightFormat*> {
 protected:
  void SetUp() override {
    auto packed = GetParam()->pack(
        {values_.data(), DType::kF32, kOutputs, kInputs, MatrixOrder::kOutputRows});
    ASSERT_TRUE(packed.ok()) << packed.status().message();
    packed_ = std::move(packed).value();
    to_dense(packed_.matrix, whole_.data());
  }

  // Rows of integers are off by more than f32 is; the formats' own tests say how far. Here they are
  // held to 2^-7 of the sum of magnitudes, which a wrong weight, scale or place exceeds.
  void expect_product(const MatrixStack& stack, int64_t first, double relative) {
    const auto made = prepare_linear(stack, nullptr, Precision::kStored, team_);
    ASSERT_TRUE(made.ok()) << made.status().message();
    const Linear& linear = **made;
    const int64_t total = linear.info().outputs;
    std::vector<float> y(static_cast<size_t>(kRows * total), NAN);
    const auto aligned = [](int64_t bytes) {
      return host_device().allocate(static_cast<size_t>(bytes));
    };
    const Buffer scratch = aligned(linear.scratch_bytes(kRows));
    const Buffer converted = aligned(linear.converted_bytes(kRows));
    LinearArgs args{.x = x_.data(),
                    .x_stride = kInputs,
                    .rows = kRows,
                    .y = y.data(),
                    .y_stride = total,
                    .scratch = scratch.data()};
    if (linear.converted_bytes(kRows) > 0) linear.convert_rows(args, {0, kRows}, converted.data());
    args.converted = converted.data();
    linear.apply_alone(args);
    for (int64_t m = 0; m < kRows; ++m) {
      for (int64_t n = 0; n < kOutputs; ++n) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < kInputs; ++k) {
          const double term = double{x_[m * kInputs + k]} * whole_[n * kInputs + k];
          sum += term;
          size += std::abs(term);
        }
        ASSERT_NEAR(y[m * total + first + n], sum, relative * size + 1e-30)
            << "row " << m << " output " << n;
      }
    }
  }
  double relative() const {
    return is<QuantizedMatrix>(packed_.matrix) ? 0x1p-7 : (kInputs + 2) * kEpsilon;
  }

  static constexpr int64_t kRows = 5;
  std::vector<float> values_ = testing::random_values(kOutputs * kInputs, 7);
  std::vector<float> x_ = testing::random_values(kRows * kInputs, 8);
  std::vector<float> whole_ = std::vector<float>(kOutputs * kInputs);
  PackedMatrix packed_;
  Team team_{2};
};

INSTANTIATE_TEST_SUITE_P(Table, EveryFormat,
                         ::testing::ValuesIn(all_weight_formats().begin(),
                                             all_weight_formats().end()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(EveryFormat, IsMultipliedAsWhatItIsWrittenOut) {
  expect_product({packed_.matrix}, 0, relative());
}

TEST_P(EveryFormat, MayStandBetweenMatricesOfAnyFormat) {
  for (const WeightFormat* other : all_weight_formats()) {
    SCOPED_TRACE(other->name);
    const auto beside = other->pack({values_.data(), DType::kF32, kOutputs, kInputs});
    ASSERT_TRUE(beside.ok()) << beside.status().message();
    expect_product({beside->matrix, packed_.matrix, beside->matrix}, kOutputs, relative());
  }
}

// In every precision that may be asked for, with the outputs that it has.
TEST_P(EveryFormat, IsPreparedInEveryPrecision) {
  for (const Precision precision :
       {Precision::kStored, Precision::kF32, Precision::kBF16, Precision::kInt8, Precision::kInt4,
        Precision::kW8, Precision::kW4}) {
    const auto made = prepare_linear({packed_.matrix}, nullptr, precision, team_);
    ASSERT_TRUE(made.ok()) << name(precision) << ": " << made.status().message();
    EXPECT_EQ((*made)->info().outputs, kOutputs);
    EXPECT_EQ((*made)->info().inputs, kInputs);
  }
}

}  // namespace
}  // namespace tessera
