#include <cmath>
#include <limits>

#include "base/device.h"
#include "formats/packed.h"
#include "kernels/bf16_matmul/bf16_matmul.h"
#include "kernels/testing.h"
#include "linear/linear.h"

namespace tessera {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

enum class Kind { kDense, kTiles, kCsr, kOutputs, kInputs };
constexpr Kind kKinds[] = {Kind::kDense, Kind::kTiles, Kind::kCsr, Kind::kOutputs, Kind::kInputs};
constexpr const char* kNames[] = {"dense", "tiles", "csr", "outputs", "inputs"};

// Matrices of several formats with the dense values that they stand for.
class Stack {
 public:
  Stack(int64_t inputs, uint32_t seed) : inputs_(inputs), seed_(seed) {}

  void add(Kind kind, int64_t outputs, MatrixOrder order, double kept) {
    const bool by_output = order == MatrixOrder::kOutputRows;
    const int64_t rows = by_output ? outputs : inputs_, cols = by_output ? inputs_ : outputs;
    std::vector<float> values = testing::random_values(rows * cols, ++seed_);
    const TileMask mask = draw(kind, by_output, rows, cols, kept);
    clear_pruned(mask, sizeof(float), values.data());
    values_.push_back(std::move(values));
    const DenseView dense{values_.back().data(), DType::kF32, rows, cols, order};
    weights_.push_back(dense);
    stack_.push_back(pack(kind, dense, mask));
    outputs_.push_back(outputs);
    total_ += outputs;
  }

  const MatrixStack& matrices() const { return stack_; }
  int64_t inputs() const { return inputs_; }
  int64_t total() const { return total_; }
  float weight(int64_t output, int64_t input, Precision stored) const {
    size_t part = 0;
    while (output >= outputs_[part]) output -= outputs_[part++];
    const DenseView& dense = weights_[part];
    const float value = dense.order == MatrixOrder::kOutputRows
                            ? values_[part][output * inputs_ + input]
                            : values_[part][input * dense.cols + output];
    return stored == Precision::kF32 ? value : bf16_to_f32(f32_to_bf16(value));
  }

 private:
  // Which units of the kind are kept.
  TileMask draw(Kind kind, bool by_output, int64_t rows, int64_t cols, double kept) {
    TileShape tile;
    if (kind == Kind::kCsr) tile = {1, 1};
    const auto whole_row = [&] { return TileShape{1, static_cast<int32_t>(cols)}; };
    const auto whole_col = [&] { return TileShape{static_cast<int32_t>(rows), 1}; };
    if (kind == Kind::kOutputs) tile = by_output ? whole_row() : whole_col();
    if (kind == Kind::kInputs) tile = by_output ? whole_col() : whole_row();
    TileMask mask = TileMask::all(tile, rows, cols);
    if (kind == Kind::kDense) return mask;
    std::mt19937 generator(++seed_);
    std::bernoulli_distribution keep(kept);
    for (uint8_t& one : mask.kept) one = keep(generator) ? 1 : 0;
    return mask;
  }

  StoredMatrix pack(Kind kind, const DenseView& dense, const TileMask& mask) {
    if (kind == Kind::kDense) return dense;
    const KeptAxis axis = kind == Kind::kOutputs ? KeptAxis::kOutputs : KeptAxis::kInputs;
    Result<PackedMatrix> packed = kind == Kind::kTiles ? pack_tiles(dense, mask)
                                  : kind == Kind::kCsr ? pack_csr(dense, mask)
                                                       : pack_compact(dense, axis, mask.kept);
    EXPECT_TRUE(packed.ok()) << packed.status().message();
    packed_.push_back(std::move(packed).value());
    return packed_.back().matrix;
  }

  int64_t inputs_, total_ = 0;
  uint32_t seed_;
  std::vector<std::vector<float>> values_;
  std::vector<DenseView> weights_;
  std::vector<PackedMatrix> packed_;
  std::vector<int64_t> outputs_;
  MatrixStack stack_;
};

struct Call {
  int64_t rows = 1;
  Precision stored = Precision::kF32;
  Activation activation = Activation::kRelu;
};

// The product by a team, with scratch memory that ends where it is said to.
std::vector<float> apply(const Linear& linear, LinearArgs args, std::vector<float> y, Team& team) {
  args.y = y.data();
  const auto bytes = static_cast<size_t>(linear.scratch_bytes(args.rows));
  std::vector<Buffer> scratch;
  for (int i = 0; i < team.size(); ++i) scratch.push_back(host_device().allocate(bytes));
  const Buffer converted =
      host_device().allocate(static_cast<size_t>(linear.converted_bytes(args.rows)));
  team.run([&](Team::Member& member) {
    LinearArgs own = args;
    own.scratch = scratch[static_cast<size_t>(member.rank())].data();
    apply_shared(linear, own, converted.data(), member);
  });
  return y;
}

void check_product(const Stack& stack, const Call& call, Team& team) {
  SCOPED_TRACE(std::to_string(call.rows) + " rows, " + std::string(name(call.stored)) + ", " +
               std::to_string(team.size()) + " threads");
  const std::vector<float> bias = testing::random_values(stack.total(), 71);
  const auto made = prepare_linear(stack.matrices(), bias.data(), call.stored, team);
  ASSERT_TRUE(made.ok()) << made.status().message();
  const int64_t x_stride = stack.inputs() + 1, y_stride = stack.total() + 2;
  // Exact in bf16, to which rows may be rounded.
  std::vector<float> x = testing::random_values(call.rows * x_stride, 72);
  for (float& value : x) value = bf16_to_f32(f32_to_bf16(value));
  const std::vector<float> residual = testing::random_values(call.rows * y_stride, 73);
  const LinearArgs args{.x = x.data(),
                        .x_stride = x_stride,
                        .rows = call.rows,
                        .activation = call.activation,
                        .residual = residual.data(),
                        .residual_stride = y_stride,
                        .y_stride = y_stride};
  const std::vector<float> y = apply(**made, args, std::vector<float>(residual.size(), kNaN), team);
  // In place of the residual, and by one thread alone.
  LinearArgs within = args;
  std::vector<float> alone = residual;
  within.residual = within.y = alone.data();
  const Buffer scratch =
      host_device().allocate(static_cast<size_t>((*made)->scratch_bytes(call.rows)));
  within.scratch = scratch.data();
  const Buffer converted =
      host_device().allocate(static_cast<size_t>((*made)->converted_bytes(call.rows)));
  (*made)->convert_rows(within, {0, call.rows}, converted.data());
  within.converted = converted.data();
  (*made)->apply_alone(within);
  for (int64_t m = 0; m < call.rows; ++m) {
    for (int64_t n = 0; n < stack.total(); ++n) {
      double sum = bias[n], size = std::abs(bias[n]);
      for (int64_t k = 0; k < stack.inputs(); ++k) {
        const double term = double{x[m * x_stride + k]} * stack.weight(n, k, call.stored);
        sum += term;
        size += std::abs(term);
      }
      const int64_t at = m * y_stride + n;
      const double expected = std::max(sum, 0.0) + residual[at];
      const double bound =
          (static_cast<double>(stack.inputs()) / 2 + 9) * kEpsilon * (size + std::abs(expected));
      ASSERT_NEAR(expected, y[at], bound) << "row " << m << " output " << n;
      ASSERT_NEAR(expected, alone[at], bound) << "alone, row " << m << " output " << n;
    }
    for (int64_t n = stack.total(); n < y_stride; ++n) {
      const int64_t at = m * y_stride + n;
      ASSERT_TRUE(std::isnan(y[at]) && alone[at] == residual[at]) << "wrote outside, row " << m;
    }
  }
}

TEST(PrepareLinear, EveryFormatOnTeamsOfEverySize) {
  uint32_t seed = 1;
  for (const int threads : {1, 2, 3}) {
    Team team(threads);
    for (const Kind kind : kKinds) {
      for (const MatrixOrder order : {MatrixOrder::kOutputRows, MatrixOrder::kInputRows}) {
        for (const double kept : {0.0, 0.15, 0.3, 1.0}) {
          Stack stack(50, seed += 10);
          stack.add(kind, 77, order, kept);
          SCOPED_TRACE(std::string(kNames[static_cast<int>(kind)]) + ", kept " +
                       std::to_string(kept) + ", " + testing::seed_trace(seed));
          for (const int64_t rows : {0, 1, 2, 13, 70, 131}) {
            for (const Precision stored : {Precision::kF32, Precision::kBF16}) {
              ASSERT_NO_FATAL_FAILURE(check_product(stack, {rows, stored}, team));
            }
          }
        }
      }
    }
  }
}

TEST(PrepareLinear, StacksOfMixedFormats) {
  uint32_t seed = 5000;
  for (const int threads : {1, 2}) {
    Team team(threads);
    for (const Kind first : kKinds) {
      for (const Kind second : kKinds) {
        Stack stack(40, seed += 10);
        stack.add(first, 33, MatrixOrder::kOutputRows, 0.15);
        stack.add(second, 20, MatrixOrder::kInputRows, 0.15);
        stack.add(second, 48, MatrixOrder::kOutputRows, 0.15);
        SCOPED_TRACE(std::string(kNames[static_cast<int>(first)]) + ", twice " +
                     kNames[static_cast<int>(second)] + ", " + testing::seed_trace(seed));
        for (const int64_t rows : {1, 9, 66}) {
          ASSERT_NO_FATAL_FAILURE(check_product(stack, {rows}, team));
        }
      }
    }
  }
}

// Nothing is rounded otherwise because more threads work, for any number of rows.
TEST(PrepareLinear, ResultsDoNotDependOnTheNumberOfThreads) {
  for (const Kind kind : {Kind::kTiles, Kind::kCsr}) {
    Stack stack(300, 77);
    stack.add(kind, 100, MatrixOrder::kOutputRows, kind == Kind::kCsr ? 0.15 : 0.4);
    for (const int64_t rows : {1, 7, 8, 15, 16, 40, 65, 129, 200}) {
      SCOPED_TRACE(std::string(kNames[static_cast<int>(kind)]) + ", " + std::to_string(rows));
      const std::vector<float> x = testing::random_values(rows * 300, 78);
      std::vector<float> first;
      for (const int threads : {1, 2, 3, 4}) {
        Team team(threads);
        const auto made = prepare_linear(stack.matrices(), nullptr, Precision::kF32, team);
        ASSERT_TRUE(made.ok());
        const std::vector<float> y =
            apply(**made, {.x = x.data(), .x_stride = 300, .rows = rows, .y_stride = 100},
                  std::vector<float>(static_cast<size_t>(rows * 100)), team);
        if (threads == 1) first = y;
        ASSERT_EQ(first, y) << threads << " threads";
      }
    }
  }
}

LinearInfo info_of(const Stack& stack, Precision stored = Precision::kF32) {
  Team team(2);
  const auto made = prepare_linear(stack.matrices(), nullptr, stored, team);
  EXPECT_TRUE(made.ok()) << made.status().message();
  return (*made)->info();
}

TEST(PrepareLinear, InfoTellsWhatIsExecuted) {
  Stack tiles(160, 1);
  tiles.add(Kind::kTiles, 160, MatrixOrder::kOutputRows, 0.2);
  tiles.add(Kind::kTiles, 80, MatrixOrder::kInputRows, 0.2);
  const int64_t kept =
      get<TileMatrix>(tiles.matrices()[0]).kept() + get<TileMatrix>(tiles.matrices()[1]).kept();
  const LinearInfo info = info_of(tiles);
  EXPECT_EQ(info.format.find("tiles 16x16 f32, "), 0u) << info.format;
  EXPECT_NE(info.format.find("% pruned"), std::string::npos) << info.format;
  EXPECT_EQ(info.format.find(';'), std::string::npos) << "one product: " << info.format;
  EXPECT_EQ(info.kernel.find("tile_matmul:"), 0u) << info.kernel;
  EXPECT_EQ(info.inputs, 160);
  EXPECT_EQ(info.outputs, 240);
  EXPECT_EQ(info.flops_per_row, 2 * 256 * kept);
  EXPECT_EQ(info.dense_flops_per_row, 2 * 160 * 240);
  // The tiles, their indices, and a few numbers a panel.
  EXPECT_GE(info.bytes, kept * (256 * 4 + 4));
  EXPECT_LE(info.bytes, kept * (256 * 4 + 4) + 15 * 32 + 64);

  Stack columns(160, 2);
  columns.add(Kind::kInputs, 64, MatrixOrder::kOutputRows, 0.25);
  const LinearInfo narrow = info_of(columns, Precision::kBF16);
  const int64_t inputs = get<CompactMatrix>(columns.matrices()[0]).kept.inputs();
  EXPECT_EQ(narrow.flops_per_row, 2 * 64 * inputs);
  EXPECT_EQ(narrow.dense_flops_per_row, 2 * 64 * 160);
  EXPECT_NE(narrow.format.find("inputs kept dense bf16"), std::string::npos) << narrow.format;

  Stack mixed(160, 3);
  mixed.add(Kind::kDense, 64, MatrixOrder::kOutputRows, 1);
  mixed.add(Kind::kCsr, 64, MatrixOrder::kOutputRows, 0.1);
  const LinearInfo both = info_of(mixed);
  EXPECT_NE(both.format.find("dense f32; csr f32"), std::string::npos) << both.format;
  EXPECT_EQ(both.outputs, 128);
}

TEST(PrepareLinear, RunsFullTilesDenseUnlessForced) {
  Stack full(160, 1);
  full.add(Kind::kTiles, 160, MatrixOrder::kOutputRows, 1.0);
  const LinearInfo dense = info_of(full);
  EXPECT_EQ(dense.format, "dense f32");
  EXPECT_NE(dense.why.find("run dense: 100%"), std::string::npos) << dense.why;
  Team team(2);
  for (const char* row : {"avx512", "avx2", "ref"}) {
    const testing::Forced forced("tile_matmul:" + std::string(row));
    const LinearInfo sparse = info_of(full);
    EXPECT_EQ(sparse.format, "tiles 16x16 f32, 0% pruned");
    EXPECT_EQ(sparse.flops_per_row, sparse.dense_flops_per_row);
    for (const int64_t rows : {1, 30}) {
      ASSERT_NO_FATAL_FAILURE(check_product(full, {rows}, team)) << row;
    }
  }
}

TEST(PrepareLinear, RunsFullCsrDenseUnlessForced) {
  Stack full(160, 1);
  full.add(Kind::kCsr, 160, MatrixOrder::kOutputRows, 0.5);
  const LinearInfo dense = info_of(full);
  EXPECT_EQ(dense.format, "dense f32");
  EXPECT_NE(dense.why.find("run dense: "), std::string::npos) << dense.why;
  const testing::Forced forced("csr_matmul:ref");
  EXPECT_NE(info_of(full).format.find("csr f32"), std::string::npos);
}

// What gains beside products of floats may lose beside faster ones.
TEST(PrepareLinear, RunsDenseWhereDenseProductsAreFaster) {
  Stack elements(160, 1);
  elements.add(Kind::kCsr, 160, MatrixOrder::kOutputRows, 0.05);
  EXPECT_NE(info_of(elements).format.find("csr f32"), std::string::npos);
  const LinearInfo bytes = info_of(elements, Precision::kInt8);
  EXPECT_EQ(bytes.format, "dense int8");
  EXPECT_NE(bytes.why.find("gain nothing beside int8"), std::string::npos) << bytes.why;

  const bool has_fast_bf16 = bf16_matmul::refuse_cpu() == nullptr;
  EXPECT_EQ(info_of(elements, Precision::kBF16).format == "dense bf16", has_fast_bf16);
  Stack half(160, 2);
  half.add(Kind::kTiles, 160, MatrixOrder::kOutputRows, 0.5);
  EXPECT_NE(info_of(half).format.find("tiles 16x16 f32"), std::string::npos);
  const LinearInfo pairs = info_of(half, Precision::kBF16);
  EXPECT_EQ(pairs.format == "dense bf16", has_fast_bf16) << pairs.format;
  EXPECT_EQ(pairs.why.find("run dense: ") != std::string::npos, has_fast_bf16) << pairs.why;
}

TEST(PrepareLinear, RefusesWhatItCannotPack) {
  Team team(1);
  const auto refusal = [&](const MatrixStack& stack) {
    const auto made = prepare_linear(stack, nullptr, Precision::kF32, team);
    return made.ok() ? "" : made.status().message();
  };
  Stack one(8, 1), two(9, 2);
  one.add(Kind::kTiles, 8, MatrixOrder::kOutputRows, 0.5);
  two.add(Kind::kCsr, 8, MatrixOrder::kOutputRows, 0.5);
  EXPECT_EQ(refusal(one.matrices()), "");
  EXPECT_NE(refusal({}).find("empty"), std::string::npos);
  EXPECT_NE(refusal({one.matrices()[0], two.matrices()[0]}).find("found 9"), std::string::npos);
  TileMatrix integers = get<TileMatrix>(one.matrices()[0]);
  integers.dtype = DType::kI32;
  EXPECT_NE(refusal({integers}).find("I32"), std::string::npos);
}

}  // namespace
}  // namespace tessera
