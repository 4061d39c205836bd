#include "linear/subset.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/device.h"
#include "formats/packed.h"
#include "kernels/testing.h"
#include "linear/linear.h"

namespace tessera {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

using Ranges = std::vector<Range>;

bool holds(const Ranges& ranges, int64_t number) {
  for (const Range& range : ranges) {
    if (number >= range.begin && number < range.end) return true;
  }
  return ranges.empty();
}

enum class Kind { kDense, kTiles, kCsr, kInputs, kOutputs };
struct Format {
  const char* name;
  Kind kind;
  Precision precision;
};

// What a matrix is with some of its weights pruned.
PackedMatrix pack(Kind kind, const DenseView& dense) {
  const TileShape tiles[] = {
      {}, {16, 16}, {1, 1}, {int32_t(dense.rows), 1}, {1, int32_t(dense.cols)}};
  TileMask mask = TileMask::all(tiles[static_cast<size_t>(kind)], dense.rows, dense.cols);
  for (size_t i = 0; i < mask.kept.size(); ++i) mask.kept[i] = i % 3 != 1 ? 1 : 0;
  Result<PackedMatrix> packed =
      kind == Kind::kTiles ? pack_tiles(dense, mask)
      : kind == Kind::kCsr
          ? pack_csr(dense, mask)
          : pack_compact(dense, kind == Kind::kOutputs ? KeptAxis::kOutputs : KeptAxis::kInputs,
                         mask.kept);
  EXPECT_TRUE(packed.ok()) << packed.status().message();
  return std::move(packed).value();
}

// A map of two matrices and a call of it.
class Problem {
 public:
  Problem(int64_t rows, int64_t inputs, int64_t outputs, const Format& format, Team& team)
      : rows_(rows), inputs_(inputs), outputs_(outputs), team_(team) {
    const int64_t first = outputs / 3;
    weights_ = testing::random_values(outputs * inputs, 3);
    bias_ = testing::random_values(outputs, 4);
    x_ = testing::random_values(rows * (inputs + 3), 5);
    residual_ = testing::random_values(rows * (outputs + 2), 6);
    const DenseView dense[] = {
        {weights_.data(), DType::kF32, first, inputs},
        {weights_.data() + first * inputs, DType::kF32, outputs - first, inputs}};
    std::vector<PackedMatrix> packed;
    MatrixStack stack;
    for (const DenseView& each : dense) {
      if (format.kind == Kind::kDense) {
        stack.push_back(each);
      } else {
        packed.push_back(pack(format.kind, each));
        stack.push_back(packed.back().matrix);
      }
    }
    auto made = prepare_linear(stack, bias_.data(), format.precision, team);
    EXPECT_TRUE(made.ok()) << made.status().message();
    map_ = std::move(*made);
  }

  const Linear& map() const { return *map_; }
  float x(int64_t m, int64_t k) const { return x_[static_cast<size_t>(m * (inputs_ + 3) + k)]; }

  // The inputs that are not asked for become this.
  void fill_others(const Ranges& inputs, float value) {
    for (int64_t m = 0; m < rows_; ++m) {
      for (int64_t k = 0; k < inputs_; ++k) {
        if (!holds(inputs, k)) x_[static_cast<size_t>(m * (inputs_ + 3) + k)] = value;
      }
    }
  }

  std::vector<float> run(const Ranges& outputs, const Ranges& inputs, bool alone = false) const {
    std::vector<float> y(residual_.size(), kNaN);
    LinearArgs args{.x = x_.data(),
                    .x_stride = inputs_ + 3,
                    .rows = rows_,
                    .activation = Activation::kRelu,
                    .residual = residual_.data(),
                    .residual_stride = outputs_ + 2,
                    .y = y.data(),
                    .y_stride = outputs_ + 2,
                    .outputs = {outputs},
                    .inputs = {inputs}};
    const auto memory = [](int64_t bytes) {
      return host_device().allocate(static_cast<size_t>(bytes) + 64);
    };
    const Buffer converted = memory(map_->converted_bytes(rows_));
    const int64_t scratch_bytes = (map_->scratch_bytes(rows_) + 63) / 64 * 64;
    const Buffer scratch = memory(scratch_bytes * team_.size());
    if (alone) {
      args.scratch = scratch.data();
      if (map_->converted_bytes(rows_) > 0) map_->convert_rows(args, {0, rows_}, converted.data());
      args.converted = converted.data();
      map_->apply_alone(args);
      return y;
    }
    team_.run([&](Team::Member& member) {
      LinearArgs own = args;
      own.scratch = scratch.as<char>() + member.rank() * scratch_bytes;
      apply_shared(*map_, own, converted.data(), member);
    });
    return y;
  }

  // Twice the most that the products' sums of one output may be off, whatever their order.
  double bound(int64_t m, int64_t n) const {
    double size = std::abs(double{bias_[static_cast<size_t>(n)]}) + 1;
    for (int64_t k = 0; k < inputs_; ++k)
      size += std::abs(double{x(m, k)} * weights_[static_cast<size_t>(n * inputs_ + k)]);
    return 2 * (static_cast<double>(inputs_) / 2 + 8) * kEpsilon * size;
  }

 private:
  int64_t rows_, inputs_, outputs_;
  Team& team_;
  std::vector<float> weights_, bias_, x_, residual_;
  std::unique_ptr<Linear> map_;
};

constexpr Format kF32 = {"dense f32", Kind::kDense, Precision::kF32};
constexpr Format kBF16 = {"dense bf16", Kind::kDense, Precision::kBF16};
constexpr Format kInt8 = {"dense int8", Kind::kDense, Precision::kInt8};
constexpr Format kFormats[] = {kF32,
                               kBF16,
                               kInt8,
                               {"dense int4", Kind::kDense, Precision::kInt4},
                               {"tiles f32", Kind::kTiles, Precision::kF32},
                               {"tiles int8", Kind::kTiles, Precision::kInt8},
                               {"csr", Kind::kCsr, Precision::kF32},
                               {"kept inputs", Kind::kInputs, Precision::kF32},
                               {"kept outputs", Kind::kOutputs, Precision::kF32}};

struct Case {
  int64_t inputs, outputs;
  Ranges of_inputs, of_outputs;
};

// Heads of a panel, of less, at odd places, and all.
std::vector<Case> cases() {
  return {{192, 320, {{64, 128}}, {{0, 64}, {192, 320}}},
          {192, 320, {}, {{64, 128}, {128, 192}}},
          {256, 200, {{0, 32}, {96, 128}, {224, 256}}, {{10, 20}, {70, 80}, {199, 200}}},
          {130, 66, {{128, 130}}, {{65, 66}}},
          {100, 130, {{3, 5}, {7, 50}}, {}},
          {96, 64, {}, {}}};
}

// A call that asks for a part gives what the whole one gives there.
TEST(Subset, EveryFormatGivesWhatIsAskedFor) {
  for (const int threads : {1, 3}) {
    Team team(threads);
    for (const Format& format : kFormats) {
      for (const Case& each : cases()) {
        for (const int64_t rows : {1, 2, 7, 40, 200}) {
          SCOPED_TRACE(std::string(format.name) + ", " + std::to_string(rows) + " rows, " +
                       std::to_string(each.inputs) + " x " + std::to_string(each.outputs) + ", " +
                       std::to_string(threads) + " threads");
          Problem problem(rows, each.inputs, each.outputs, format, team);
          problem.fill_others(each.of_inputs, 0);
          const std::vector<float> whole = problem.run({}, {});
          for (const bool alone : {false, true}) {
            const std::vector<float> part = problem.run(each.of_outputs, each.of_inputs, alone);
            for (int64_t m = 0; m < rows; ++m) {
              for (int64_t n = 0; n < each.outputs; ++n) {
                const auto at = static_cast<size_t>(m * (each.outputs + 2) + n);
                if (!holds(each.of_outputs, n)) continue;
                ASSERT_NEAR(whole[at], part[at], problem.bound(m, n)) << m << ", " << n;
              }
              for (int64_t n = each.outputs; n < each.outputs + 2; ++n)
                ASSERT_TRUE(std::isnan(part[static_cast<size_t>(m * (each.outputs + 2) + n)]));
            }
          }
        }
      }
    }
  }
}

// What is not computed is not written, and what is not read may be anything.
TEST(Subset, WorkIsLeftOut) {
  Team team(2);
  const Ranges outputs = {{64, 128}, {200, 210}}, inputs = {{32, 64}, {128, 192}};
  for (const Format& format : {kF32, kBF16, kInt8}) {
    for (const int64_t rows : {1, 9, 130}) {
      SCOPED_TRACE(std::string(format.name) + ", " + std::to_string(rows) + " rows");
      Problem problem(rows, 256, 320, format, team);
      const std::vector<float> some = problem.run(outputs, {});
      for (int64_t n = 0; n < 320; ++n) {
        const bool computed = (n >= 64 && n < 128) || (n >= 192 && n < 256);
        ASSERT_EQ(!computed, std::isnan(some[static_cast<size_t>(n)])) << n;
      }
      LinearArgs args{.rows = rows, .outputs = {outputs}, .inputs = {inputs}};
      const double lanes = format.precision == Precision::kInt8 ? 128.0 : 96.0;
      EXPECT_DOUBLE_EQ(2.0 / 5 * lanes / 256, problem.map().share(args));
      // A row of bytes is of all its inputs.
      if (format.precision == Precision::kInt8) continue;
      problem.fill_others(inputs, 0);
      const std::vector<float> zeros = problem.run({}, inputs);
      problem.fill_others(inputs, kNaN);
      const std::vector<float> others = problem.run({}, inputs);
      for (int64_t n = 0; n < 320; ++n)
        ASSERT_EQ(zeros[static_cast<size_t>(n)], others[static_cast<size_t>(n)]) << n;
    }
  }
}

// Integers are added exactly, in whatever order: rows of bytes have no other result.
TEST(Subset, BytesGiveTheSameBits) {
  Team team(2);
  const Ranges inputs = {{0, 64}, {192, 256}};
  for (const int64_t rows : {1, 50}) {
    Problem problem(rows, 320, 192, kInt8, team);
    problem.fill_others(inputs, 0);
    const std::vector<float> whole = problem.run({}, {}), part = problem.run({}, inputs);
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t n = 0; n < 192; ++n) {
        const auto at = static_cast<size_t>(m * 194 + n);
        ASSERT_EQ(whole[at], part[at]);
      }
    }
  }
}

// Of tiles the panels that have no output asked for are left out.
TEST(Subset, TilesOfOtherOutputsAreLeftOut) {
  Team team(2);
  const Ranges outputs = {{64, 128}, {200, 210}};
  for (const Precision precision : {Precision::kF32, Precision::kInt8}) {
    for (const int64_t rows : {1, 9, 130}) {
      const Format format = {"tiles", Kind::kTiles, precision};
      Problem problem(rows, 256, 320, format, team);
      const std::vector<float> some = problem.run(outputs, {});
      int64_t computed = 0;
      for (int64_t n = 0; n < 320; ++n)
        computed += std::isnan(some[static_cast<size_t>(n)]) ? 0 : 1;
      // The matrices meet at 106, where a panel begins.
      EXPECT_GE(computed, 64 + 10);
      EXPECT_LE(computed, 64 + 10 + 2 * 16 + 16);
      EXPECT_LT(problem.map().share({.rows = rows, .outputs = {outputs}}), 0.5);
    }
  }
}

TEST(Subset, ManyRangesBecomeOneAtTheEnd) {
  Ranges many;
  for (int64_t i = 0; i < 100; ++i) many.push_back({32 * i, 32 * i + 16});
  const InputParts parts({many}, 3200, {.lane = 1, .unit = 16});
  ASSERT_EQ(32, parts.size());
  EXPECT_EQ(30 * 32 + 16, parts.data()[30].end);
  EXPECT_EQ(31 * 32, parts.data()[31].begin);
  EXPECT_EQ(99 * 32 + 16, parts.data()[31].end);
}

}  // namespace
}  // namespace tessera
