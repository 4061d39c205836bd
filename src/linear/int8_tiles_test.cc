#include <cmath>
#include <limits>

#include "base/device.h"
#include "formats/packed.h"
#include "formats/u8_rows.h"
#include "kernels/quantize_rows_u8/quantize_rows_u8.h"
#include "kernels/testing.h"
#include "kernels/tile_int8_matmul/tile_int8_matmul.h"
#include "kernels/tile_matmul/tile_matmul.h"
#include "linear/linear.h"

namespace tessera {
namespace {

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Draw {
  int64_t outputs = 0;
  int64_t inputs = 0;
  TileShape tile;
  MatrixOrder order = MatrixOrder::kOutputRows;
  double kept = 0.3;
  uint32_t seed = 1;
};

// Tiles of floats and the same of integers.
class Tiles {
 public:
  explicit Tiles(const Draw& draw) : draw_(draw) {
    const bool by_output = draw.order == MatrixOrder::kOutputRows;
    const int64_t rows = by_output ? draw.outputs : draw.inputs;
    const int64_t cols = by_output ? draw.inputs : draw.outputs;
    const std::vector<float> values = testing::random_values(rows * cols, draw.seed, 0.1f);
    TileMask mask = TileMask::all(draw.tile, rows, cols);
    std::mt19937 generator(draw.seed + 1);
    std::bernoulli_distribution keep(draw.kept);
    for (uint8_t& one : mask.kept) one = keep(generator) ? 1 : 0;
    floats_ = pack_tiles({values.data(), DType::kF32, rows, cols, draw.order}, mask).value();
    integers_ = pack_quantized(get<TileMatrix>(floats_.matrix)).value();
    whole_ = pack_whole(integers());
  }
  // Gives the integers input scales, which they have in place of 1.
  void scale_inputs() {
    std::vector<float> scales;
    for (int64_t k = 0; k < draw_.inputs; ++k)
      scales.push_back(k % 3 == 0 ? 4.0f : k % 3 == 1 ? 0.3f : 1.0f);
    set_scales(".input_scales", scales, integers_);
  }

  StoredMatrix floats() const { return floats_.matrix; }
  TileMatrix integers() const { return get<TileMatrix>(integers_.matrix); }
  int64_t outputs() const { return draw_.outputs; }
  double weight(int64_t output, int64_t input) const {
    const auto whole = get<QuantizedMatrix>(whole_.matrix);
    return double{whole.scale(output, 0)} * whole.integer(output, input);
  }
  std::string trace() const {
    return std::to_string(draw_.inputs) + " -> " + std::to_string(draw_.outputs) + ", tiles " +
           std::to_string(draw_.tile.rows) + " x " + std::to_string(draw_.tile.cols) + ", kept " +
           std::to_string(draw_.kept) + ", " + testing::seed_trace(draw_.seed);
  }

 private:
  Draw draw_;
  PackedMatrix floats_, integers_, whole_;
};

// The product by a team, with memory that ends where it is said to.
std::vector<float> apply(const Linear& linear, LinearArgs args, std::vector<float> y, Team& team) {
  args.y = y.data();
  if (args.residual == nullptr) args.residual_stride = 0;
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

// Rows as the reference of the family rounds them.
class Rounded {
 public:
  Rounded(const std::vector<float>& x, int64_t rows, int64_t inputs, const float* multipliers)
      : layout_(u8_rows_layout(rows, inputs)),
        memory_(host_device().allocate(static_cast<size_t>(layout_.bytes) + 64)) {
    auto* bytes = memory_.as<uint8_t>();
    const quantize_rows_u8::Args args{.x = x.data(),
                                      .x_stride = inputs,
                                      .inputs = inputs,
                                      .multipliers = multipliers,
                                      .values = bytes,
                                      .stride = layout_.stride,
                                      .scales = reinterpret_cast<float*>(bytes + layout_.scales),
                                      .zeros = reinterpret_cast<int32_t*>(bytes + layout_.zeros)};
    quantize_rows_u8::kernels.rows().back().run(args, {0, rows});
    rows_ = rows_in(bytes, layout_);
  }
  double value(int64_t m, int64_t k) const {
    return double{rows_.scales[m]} * (rows_.values[m * rows_.stride + k] - rows_.zeros[m]);
  }

 private:
  U8RowsLayout layout_;
  Buffer memory_;
  U8Rows rows_;
};

struct Call {
  StoredMatrix matrix;
  Precision precision = Precision::kStored;
  int64_t rows = 1;
};

// Tiles are not written out, however full, where their kernel is named.
template <typename Args>
std::string first_choice(const KernelFamily<Args>& family) {
  return std::string(family.name()) + ":" + family.select({}).name;
}

// Exactly the product of the rounded rows and the integers, but for the epilogue's roundings.
void check_product(const Tiles& tiles, const Call& call, Team& team) {
  SCOPED_TRACE(tiles.trace() + ", " + std::to_string(call.rows) + " rows, " +
               std::string(name(call.precision)) + ", " + std::to_string(team.size()) + " threads");
  const int64_t count = inputs(call.matrix), total = tiles.outputs();
  const std::vector<float> bias = testing::random_values(total, 71);
  const testing::Forced forced(first_choice(tile_int8_matmul::kernels));
  const auto made = prepare_linear({call.matrix}, bias.data(), call.precision, team);
  ASSERT_TRUE(made.ok()) << made.status().message();
  ASSERT_EQ((*made)->info().kernel.find("tile_int8_matmul:"), 0u) << (*made)->info().kernel;
  const std::vector<float> x = testing::random_values(call.rows * count, 72);
  const std::vector<float> residual = testing::random_values(call.rows * (total + 2), 73);
  const std::vector<float> y = apply(**made,
                                     {.x = x.data(),
                                      .x_stride = count,
                                      .rows = call.rows,
                                      .activation = Activation::kRelu,
                                      .residual = residual.data(),
                                      .residual_stride = total + 2,
                                      .y_stride = total + 2},
                                     std::vector<float>(residual.size(), kNaN), team);
  std::vector<float> multipliers;
  const auto stored = get<TileMatrix>(call.matrix);
  for (int64_t k = 0; stored.input_scales != nullptr && k < count; ++k)
    multipliers.push_back(1 / stored.input_scales[k]);
  const Rounded rounded(x, call.rows, count, multipliers.empty() ? nullptr : multipliers.data());
  for (int64_t m = 0; m < call.rows; ++m) {
    for (int64_t n = 0; n < total; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < count; ++k) sum += rounded.value(m, k) * tiles.weight(n, k);
      const double expected = std::max(sum + bias[n], 0.0) + residual[m * (total + 2) + n];
      ASSERT_NEAR(expected, y[m * (total + 2) + n],
                  4 * kEpsilon * (std::abs(sum) + std::abs(bias[n]) + std::abs(expected)))
          << "row " << m << " output " << n;
    }
    for (int64_t n = total; n < total + 2; ++n)
      ASSERT_TRUE(std::isnan(y[m * (total + 2) + n])) << "wrote outside, row " << m;
  }
}

TEST(Int8Tiles, StoredAndRoundedOnesOnTeamsOfEverySize) {
  uint32_t seed = 1;
  for (const int threads : {1, 2, 3}) {
    Team team(threads);
    for (const MatrixOrder order : {MatrixOrder::kOutputRows, MatrixOrder::kInputRows}) {
      for (const TileShape tile : {TileShape{16, 16}, {8, 16}, {32, 32}, {24, 40}}) {
        for (const double kept : {0.0, 0.2}) {
          const Tiles tiles({77, 90, tile, order, kept, seed += 10});
          for (const int64_t rows : {0, 1, 2, 13, 70, 131}) {
            ASSERT_NO_FATAL_FAILURE(
                check_product(tiles, {tiles.floats(), Precision::kInt8, rows}, team));
            ASSERT_NO_FATAL_FAILURE(
                check_product(tiles, {tiles.integers(), Precision::kStored, rows}, team));
          }
          ASSERT_NO_FATAL_FAILURE(
              check_product(tiles, {tiles.floats(), Precision::kInt4, 5}, team));
          ASSERT_NO_FATAL_FAILURE(
              check_product(tiles, {tiles.integers(), Precision::kInt4, 5}, team));
        }
      }
    }
  }
}

TEST(Int8Tiles, InputsAreScaledBeforeTheyAreRounded) {
  Team team(2);
  Tiles tiles({77, 90, {16, 16}, MatrixOrder::kOutputRows, 0.4, 500});
  tiles.scale_inputs();
  for (const int64_t rows : {1, 30}) {
    ASSERT_NO_FATAL_FAILURE(
        check_product(tiles, {tiles.integers(), Precision::kStored, rows}, team));
  }
}

TEST(Int8Tiles, ResultsDoNotDependOnTheNumberOfThreads) {
  const Tiles tiles({100, 300, {16, 16}, MatrixOrder::kOutputRows, 0.4, 77});
  for (const int64_t rows : {1, 7, 8, 15, 16, 40, 65, 129, 200}) {
    SCOPED_TRACE(std::to_string(rows) + " rows");
    const std::vector<float> x = testing::random_values(rows * 300, 78);
    std::vector<float> first;
    for (const int threads : {1, 2, 3, 4}) {
      Team team(threads);
      const auto made = prepare_linear({tiles.integers()}, nullptr, Precision::kStored, team);
      ASSERT_TRUE(made.ok());
      const std::vector<float> y =
          apply(**made, {.x = x.data(), .x_stride = 300, .rows = rows, .y_stride = 100},
                std::vector<float>(static_cast<size_t>(rows * 100)), team);
      if (threads == 1) first = y;
      ASSERT_EQ(first, y) << threads << " threads";
    }
  }
}

LinearInfo info_of(const MatrixStack& stack, Precision precision) {
  Team team(1);
  const auto made = prepare_linear(stack, nullptr, precision, team);
  EXPECT_TRUE(made.ok()) << made.status().message();
  return made.ok() ? (*made)->info() : LinearInfo();
}

TEST(Int8Tiles, NeighboursAreOneProduct) {
  const Tiles one({64, 96, {16, 16}, MatrixOrder::kOutputRows, 0.3, 5});
  const Tiles two({32, 96, {8, 16}, MatrixOrder::kInputRows, 0.3, 6});
  const LinearInfo info = info_of({one.floats(), two.floats()}, Precision::kInt8);
  EXPECT_EQ(info.format.find("tiles 16x16 int8, "), 0u) << info.format;
  EXPECT_EQ(info.format.find(';'), std::string::npos) << info.format;
  EXPECT_EQ(info.outputs, 96);
  Tiles scaled({32, 96, {16, 16}, MatrixOrder::kOutputRows, 0.3, 7});
  scaled.scale_inputs();
  Team team(1);
  const auto apart =
      prepare_linear({one.integers(), scaled.integers()}, nullptr, Precision::kStored, team);
  const auto alone = prepare_linear({one.integers()}, nullptr, Precision::kStored, team);
  ASSERT_TRUE(apart.ok() && alone.ok());
  EXPECT_EQ((*apart)->converted_bytes(8), 2 * (*alone)->converted_bytes(8))
      << "they read other rows";
}

// What is written out has the same integers, scales and input scales, so its results differ by the
// roundings of the epilogue alone.
TEST(Int8Tiles, FullOnesRunDenseUnlessForced) {
  Team team(2);
  for (const MatrixOrder order : {MatrixOrder::kOutputRows, MatrixOrder::kInputRows}) {
    Tiles tiles({77, 90, {16, 16}, order, 1.0, 600});
    tiles.scale_inputs();
    const LinearInfo info = info_of({tiles.integers()}, Precision::kStored);
    EXPECT_EQ(info.format, "dense int8");
    EXPECT_NE(info.why.find("run dense: "), std::string::npos) << info.why;
    const std::vector<float> x = testing::random_values(5 * 90, 72);
    const LinearArgs args{.x = x.data(), .x_stride = 90, .rows = 5, .y_stride = 77};
    const auto dense = prepare_linear({tiles.integers()}, nullptr, Precision::kStored, team);
    ASSERT_TRUE(dense.ok()) << dense.status().message();
    const std::vector<float> whole = apply(**dense, args, std::vector<float>(5 * 77), team);
    for (const char* row : {"avx512_vnni", "avx2", "ref"}) {
      const testing::Forced forced("tile_int8_matmul:" + std::string(row));
      const auto sparse = prepare_linear({tiles.integers()}, nullptr, Precision::kStored, team);
      ASSERT_TRUE(sparse.ok()) << sparse.status().message();
      EXPECT_EQ((*sparse)->info().format, "tiles 16x16 int8, 0% pruned");
      const std::vector<float> found = apply(**sparse, args, std::vector<float>(5 * 77), team);
      for (size_t i = 0; i < whole.size(); ++i)
        ASSERT_NEAR(whole[i], found[i], 6 * kEpsilon * std::abs(whole[i])) << row << " " << i;
    }
  }
}

TEST(Int8Tiles, FloatsAreThoseThatIntegersStandFor) {
  Team team(2);
  const testing::Forced forced(first_choice(tile_matmul::kernels));
  Tiles tiles({50, 70, {16, 16}, MatrixOrder::kInputRows, 0.4, 9});
  tiles.scale_inputs();
  std::vector<float> dense(50 * 70);
  to_dense(tiles.integers(), dense.data());
  const std::vector<float> x = testing::random_values(3 * 70, 72);
  for (const Precision precision : {Precision::kF32, Precision::kBF16, Precision::kW8}) {
    const auto made = prepare_linear({tiles.integers()}, nullptr, precision, team);
    ASSERT_TRUE(made.ok()) << made.status().message();
    const LinearInfo info = (*made)->info();
    const char* numbers = precision == Precision::kBF16 ? "tiles 16x16 bf16" : "tiles 16x16 f32";
    EXPECT_EQ(info.format.find(numbers), 0u) << info.format;
    EXPECT_EQ((*made)->converted_bytes(3), 0);
    const std::vector<float> y =
        apply(**made, {.x = x.data(), .x_stride = 70, .rows = 3, .y_stride = 50},
              std::vector<float>(150), team);
    for (int64_t m = 0; m < 3; ++m) {
      for (int64_t n = 0; n < 50; ++n) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < 70; ++k) {
          float weight = dense[k * 50 + n];
          if (precision == Precision::kBF16) weight = bf16_to_f32(f32_to_bf16(weight));
          sum += double{x[m * 70 + k]} * weight;
          size += std::abs(double{x[m * 70 + k]} * weight);
        }
        ASSERT_NEAR(sum, y[m * 50 + n], (70 / 2 + 8) * kEpsilon * size);
      }
    }
  }
}

TEST(Int8Tiles, InfoTellsWhatIsNotRunInIntegers) {
  const Tiles tiles({64, 96, {16, 16}, MatrixOrder::kOutputRows, 0.3, 5});
  for (const Precision precision : {Precision::kW8, Precision::kW4}) {
    const LinearInfo info = info_of({tiles.floats()}, precision);
    EXPECT_EQ(info.format.find("tiles 16x16 f32"), 0u) << info.format;
    EXPECT_NE(info.why.find("tiles keep their floats in w"), std::string::npos) << info.why;
  }
  // More inputs than sums of 32 bits can hold.
  const Tiles wide({16, 40000, {16, 16}, MatrixOrder::kOutputRows, 0.1, 6});
  for (const StoredMatrix& matrix : {wide.floats(), StoredMatrix(wide.integers())}) {
    const LinearInfo info = info_of({matrix}, Precision::kInt8);
    EXPECT_EQ(info.format.find("tiles 16x16 f32"), 0u) << info.format;
    EXPECT_NE(info.why.find("more than 32768 inputs"), std::string::npos) << info.why;
  }
}

TEST(Int8Tiles, InfoTellsWhatIsExecuted) {
  const Tiles tiles({160, 160, {16, 16}, MatrixOrder::kOutputRows, 0.2, 5});
  const LinearInfo info = info_of({tiles.integers()}, Precision::kStored);
  const int64_t kept = tiles.integers().kept();
  EXPECT_EQ(info.flops_per_row, 2 * 256 * kept);
  EXPECT_EQ(info.dense_flops_per_row, 2 * 160 * 160);
  // The tiles, their indices, and a few numbers a panel and an output.
  EXPECT_GE(info.bytes, kept * (256 + 4) + 160 * 4);
  EXPECT_LE(info.bytes, kept * (256 + 4) + 160 * 4 + 10 * (64 + 32) + 64);
}

}  // namespace
}  // namespace tessera
