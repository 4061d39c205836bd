#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <tuple>

#include "formats/packed.h"

namespace tessera {
namespace {

constexpr uint32_t kSeed = 20260;

// Random bytes are values too, and the formats only move them; but none that is NaN, which has no
// place in a weight.
std::vector<char> random_values(DType dtype, int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<char> values(static_cast<size_t>(count) * size_bytes(dtype));
  for (int64_t i = 0; i < count; ++i) {
    const float value = normal(generator);
    const uint16_t bits = dtype == DType::kBF16 ? f32_to_bf16(value) : f32_to_f16(value);
    char* target = values.data() + static_cast<size_t>(i) * size_bytes(dtype);
    if (dtype == DType::kF32) {
      std::memcpy(target, &value, sizeof(value));
    } else {
      std::memcpy(target, &bits, sizeof(bits));
    }
  }
  return values;
}

TileMask random_mask(TileShape tile, int64_t rows, int64_t cols, double share, uint32_t seed) {
  TileMask mask = TileMask::all(tile, rows, cols);
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform;
  for (uint8_t& kept : mask.kept) kept = uniform(generator) >= share ? 1 : 0;
  return mask;
}

struct Case {
  int64_t rows, cols;
  TileShape tile;
  DType dtype;
};

const Case kCases[] = {
    {16, 16, {16, 16}, DType::kF32},  {17, 33, {16, 16}, DType::kF32},
    {1, 1, {16, 16}, DType::kBF16},   {48, 31, {8, 16}, DType::kF16},
    {40, 70, {16, 32}, DType::kBF16}, {100, 65, {32, 32}, DType::kF32},
    {5, 300, {1, 256}, DType::kF32},
};

class RoundTrip : public ::testing::TestWithParam<std::tuple<Case, double, MatrixOrder>> {
 protected:
  RoundTrip() {
    const auto& [shape, share, order] = GetParam();
    values_ = random_values(shape.dtype, shape.rows * shape.cols, kSeed);
    dense_ = {values_.data(), shape.dtype, shape.rows, shape.cols, order};
  }

  // Any bytes that a format leaves are found.
  std::vector<char> written(const StoredMatrix& matrix) const {
    std::vector<char> target(static_cast<size_t>(dense_bytes(matrix)), '\x7f');
    to_dense(matrix, target.data());
    return target;
  }
  std::vector<char> masked(const TileMask& mask) const {
    std::vector<char> target = values_;
    clear_pruned(mask, size_bytes(dense_.dtype), target.data());
    return target;
  }

  std::vector<char> values_;
  DenseView dense_;
};

TEST_P(RoundTrip, TilesHoldWhatTheMaskKeepsBitByBit) {
  const auto& [shape, share, order] = GetParam();
  const TileMask mask = random_mask(shape.tile, shape.rows, shape.cols, share, kSeed + 1);
  const Result<PackedMatrix> packed = pack_tiles(dense_, mask);
  ASSERT_TRUE(packed.ok()) << packed.status().message();
  const auto tiles = get<TileMatrix>(packed->matrix);
  EXPECT_TRUE(validate(tiles, mask.kept_tiles()).ok());
  EXPECT_EQ(tiles.kept(), mask.kept_tiles());
  EXPECT_EQ(written(tiles), masked(mask)) << "seed " << kSeed;
  EXPECT_EQ(flops_per_row(tiles), 2 * mask.kept_tiles() * shape.tile.rows * shape.tile.cols);
  EXPECT_EQ(outputs(packed->matrix), order == MatrixOrder::kOutputRows ? shape.rows : shape.cols);
}

// Pruned values are zero, so that an output's scale is that of the masked dense matrix.
TEST_P(RoundTrip, IntegerTilesAreThoseOfTheDenseMatrix) {
  const auto& [shape, share, order] = GetParam();
  const TileMask mask = random_mask(shape.tile, shape.rows, shape.cols, share, kSeed + 4);
  const Result<PackedMatrix> floats = pack_tiles(dense_, mask);
  ASSERT_TRUE(floats.ok()) << floats.status().message();
  const Result<PackedMatrix> packed = pack_quantized(get<TileMatrix>(floats->matrix));
  ASSERT_TRUE(packed.ok()) << packed.status().message();
  const auto tiles = get<TileMatrix>(packed->matrix);
  EXPECT_EQ(dtype(packed->matrix), DType::kF32);
  EXPECT_EQ(packed_bytes(tiles), mask.kept_tiles() * (shape.tile.rows * shape.tile.cols + 4) +
                                     4 * (tiles.tile_rows() + 1) + 4 * tiles.outputs());
  const std::vector<char> kept = masked(mask);
  const DenseView dense{kept.data(), shape.dtype, shape.rows, shape.cols, order};
  const Result<PackedMatrix> whole = pack_quantized(dense, Precision::kInt8, 0);
  ASSERT_TRUE(whole.ok()) << whole.status().message();
  std::vector<float> found(static_cast<size_t>(shape.rows * shape.cols), NAN), expected = found;
  to_dense(tiles, found.data());
  to_dense(whole->matrix, expected.data());  // by outputs
  const bool by_output = order == MatrixOrder::kOutputRows;
  for (int64_t r = 0; r < shape.rows; ++r) {
    for (int64_t c = 0; c < shape.cols; ++c) {
      const int64_t at = by_output ? r * shape.cols + c : c * shape.rows + r;
      ASSERT_EQ(found[static_cast<size_t>(r * shape.cols + c)], expected[static_cast<size_t>(at)])
          << "row " << r << " column " << c << " seed " << kSeed;
    }
  }
}

TEST_P(RoundTrip, CsrHoldsWhatTheMaskKeepsBitByBit) {
  const auto& [shape, share, order] = GetParam();
  const TileMask mask = random_mask({1, 1}, shape.rows, shape.cols, share, kSeed + 2);
  const Result<PackedMatrix> packed = pack_csr(dense_, mask);
  ASSERT_TRUE(packed.ok()) << packed.status().message();
  const auto csr = get<CsrMatrix>(packed->matrix);
  EXPECT_TRUE(validate(csr, mask.kept_tiles()).ok());
  EXPECT_EQ(written(csr), masked(mask)) << "seed " << kSeed;
  EXPECT_EQ(flops_per_row(csr), 2 * mask.kept_weights());
}

TEST_P(RoundTrip, CompactHoldsWholeOutputsAndInputsBitByBit) {
  const auto& [shape, share, order] = GetParam();
  for (const KeptAxis axis : {KeptAxis::kOutputs, KeptAxis::kInputs}) {
    const bool rows = (axis == KeptAxis::kOutputs) == (order == MatrixOrder::kOutputRows);
    const TileShape unit = rows ? TileShape{1, static_cast<int32_t>(shape.cols)}
                                : TileShape{static_cast<int32_t>(shape.rows), 1};
    const TileMask mask = random_mask(unit, shape.rows, shape.cols, share, kSeed + 3);
    const Result<PackedMatrix> packed = pack_compact(dense_, axis, mask.kept);
    ASSERT_TRUE(packed.ok()) << packed.status().message();
    const auto compact = get<CompactMatrix>(packed->matrix);
    EXPECT_TRUE(validate(compact).ok());
    EXPECT_EQ(written(compact), masked(mask)) << "seed " << kSeed;
    EXPECT_EQ(compact.outputs() * compact.inputs(), shape.rows * shape.cols);
  }
}

std::string name_of(const ::testing::TestParamInfo<RoundTrip::ParamType>& info) {
  const auto& [shape, share, order] = info.param;
  const auto by = [](int64_t rows, int64_t cols) {
    return std::to_string(rows) + "x" + std::to_string(cols);
  };
  return by(shape.rows, shape.cols) + "_in_" + by(shape.tile.rows, shape.tile.cols) + "_" +
         std::string(name(shape.dtype)) + "_without_" +
         std::to_string(static_cast<int>(100 * share)) +
         (order == MatrixOrder::kOutputRows ? "_output_rows" : "_input_rows");
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, RoundTrip,
    ::testing::Combine(::testing::ValuesIn(kCases), ::testing::Values(0.0, 0.3, 0.9, 1.0),
                       ::testing::Values(MatrixOrder::kOutputRows, MatrixOrder::kInputRows)),
    name_of);

// Tiles of 2 x 2 in a matrix of 3 x 5: rows of tiles 2, columns 3.
struct Tiles {
  std::vector<float> values = std::vector<float>(4 * 4, 1.0f);
  std::vector<int32_t> offsets = {0, 2, 4};
  std::vector<int32_t> columns = {0, 1, 0, 1};
  TileMatrix matrix{values.data(),  DType::kF32,   3, 5, MatrixOrder::kOutputRows, {2, 2},
                    offsets.data(), columns.data()};
  Tiles() { values[2 * 4 + 2] = values[2 * 4 + 3] = values[3 * 4 + 2] = values[3 * 4 + 3] = 0; }
};

void expect_refused(const Status& status, const std::string& part) {
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

TEST(Validate, TilesOfAFileMayBeWrongInEveryPlace) {
  EXPECT_TRUE(validate(Tiles().matrix, 4).ok());
  const auto changed = [](auto change, int64_t kept = 4) {
    Tiles tiles;
    change(tiles);
    return validate(tiles.matrix, kept);
  };
  expect_refused(changed([](Tiles& t) { t.offsets[0] = 1; }), "0 as the first, found 1");
  expect_refused(changed([](Tiles& t) { t.offsets[0] = -1; }), "found -1");
  expect_refused(changed([](Tiles& t) { t.offsets[1] = 5; }), "found 5");
  expect_refused(changed([](Tiles& t) { t.offsets[1] = -2; }), "found -2");
  expect_refused(changed([](Tiles& t) { t.offsets[2] = 3; }), "expected 4 as the last, one");
  expect_refused(changed([](Tiles& t) { t.offsets[2] = INT32_MIN; }), "found -2147483648");
  expect_refused(changed([](Tiles& t) { t.columns[0] = -1; }), "found -1");
  expect_refused(changed([](Tiles& t) { t.columns[1] = 0; }), "ascending");
  expect_refused(changed([](Tiles& t) { t.columns[3] = 3; }), "found 3");
  expect_refused(changed([](Tiles& t) { t.columns[3] = INT32_MAX; }), "found 2147483647");
  expect_refused(changed([](Tiles& t) { t.matrix.tile.rows = 0; }), "found 0 x 2");
  expect_refused(changed([](Tiles& t) { t.matrix.tile.cols = 257; }), "found 2 x 257");
  expect_refused(changed([](Tiles& t) { t.matrix.rows = 0; }), "found 0 x 5");
  expect_refused(changed([](Tiles& t) { t.matrix.cols = int64_t{1} << 31; }), "2147483648");
  expect_refused(changed([](Tiles&) {}, 3), "found 4");
  expect_refused(changed([](Tiles&) {}, int64_t{1} << 31), "2147483648");
  expect_refused(changed([](Tiles& t) { t.values[3 * 4 + 2] = 2; }), "outside the matrix");
  expect_refused(changed([](Tiles& t) { t.values[2 * 4 + 3] = NAN; }), "outside the matrix");
}

// As above, of integers.
struct IntegerTiles {
  std::vector<int8_t> values = std::vector<int8_t>(4 * 4, 3);
  std::vector<float> scales = {0.5f, 0, -2}, input_scales = {1, 2, 4, 0.5f, -1};
  Tiles floats;
  TileMatrix matrix = floats.matrix;
  IntegerTiles() {
    for (const int outside : {10, 11, 14, 15}) values[static_cast<size_t>(outside)] = 0;
    matrix.dtype = DType::kI8;
    matrix.values = values.data();
    matrix.scales = scales.data();
    matrix.input_scales = input_scales.data();
  }
};

TEST(Validate, IntegerTilesOfAFileMayBeWrongInEveryPlace) {
  EXPECT_TRUE(validate(IntegerTiles().matrix, 4).ok());
  const auto changed = [](auto change) {
    IntegerTiles tiles;
    change(tiles);
    return validate(tiles.matrix, 4);
  };
  EXPECT_TRUE(changed([](IntegerTiles& t) { t.matrix.input_scales = nullptr; }).ok());
  expect_refused(changed([](IntegerTiles& t) { t.values[0] = -128; }), "found -128 at index 0");
  expect_refused(changed([](IntegerTiles& t) { t.values[15] = 1; }), "outside the matrix");
  expect_refused(changed([](IntegerTiles& t) { t.matrix.scales = nullptr; }), "found none");
  expect_refused(changed([](IntegerTiles& t) { t.scales[2] = NAN; }), "found nan at index 2");
  expect_refused(changed([](IntegerTiles& t) { t.scales[0] = INFINITY; }), "found inf at index 0");
  expect_refused(changed([](IntegerTiles& t) { t.input_scales[4] = 0; }), "found 0 at index 4");
  expect_refused(changed([](IntegerTiles& t) { t.input_scales[1] = 1e-45f; }), "at index 1");
  expect_refused(changed([](IntegerTiles& t) { t.floats.columns[1] = 0; }), "ascending");
}

TEST(Validate, IntegerTilesAreScaledByOutputAndInput) {
  IntegerTiles tiles;
  std::vector<float> dense(15, NAN);
  to_dense(tiles.matrix, dense.data());
  const std::vector<float> expected = {1.5f, 0.75f, 0.375f, 3.0f,  0,     0,      0, 0,
                                       0,    0,     -6.0f,  -3.0f, -1.5f, -12.0f, 0};
  EXPECT_EQ(dense, expected);
}

TEST(Validate, CsrOfAFileMayBeWrongInEveryPlace) {
  const std::vector<float> values(3);
  std::vector<int32_t> offsets = {0, 2, 3}, columns = {0, 4, 2};
  const CsrMatrix matrix{values.data(),  DType::kF32,   2, 5, MatrixOrder::kOutputRows,
                         offsets.data(), columns.data()};
  EXPECT_TRUE(validate(matrix, 3).ok());
  columns[1] = 5;
  expect_refused(validate(matrix, 3), "found 5");
  columns[1] = 0;
  expect_refused(validate(matrix, 3), "ascending");
  columns[1] = 4;
  offsets[1] = 4;
  expect_refused(validate(matrix, 3), "found 4");
  offsets[1] = 2;
  expect_refused(validate(matrix, 4), "expected 4 as the last");
}

TEST(Validate, ACompactMatrixOfAFileMayBeWrongInEveryPlace) {
  const std::vector<float> values(6);
  std::vector<int32_t> index = {1, 4};
  CompactMatrix matrix{{values.data(), DType::kF32, 2, 3}, KeptAxis::kOutputs, index.data(), 5};
  EXPECT_TRUE(validate(matrix).ok());
  index[1] = 5;
  expect_refused(validate(matrix), "found 5");
  index[1] = 1;
  expect_refused(validate(matrix), "ascending");
  index = {-1, 2};
  matrix.index = index.data();
  expect_refused(validate(matrix), "found -1");
  matrix.whole = 1;
  expect_refused(validate(matrix), "at most 1 kept outputs, found 2");
  matrix.whole = 0;
  expect_refused(validate(matrix), "found 0 x 3");
}

TEST(Pack, AMaskOfAnotherShapeIsRefused) {
  const std::vector<float> values(12);
  const DenseView dense{values.data(), DType::kF32, 3, 4};
  expect_refused(pack_tiles(dense, TileMask::all({2, 2}, 4, 3)).status(), "found one for 4 x 3");
  expect_refused(pack_csr(dense, TileMask::all({2, 2}, 3, 4)).status(), "found 2 x 2");
  expect_refused(pack_compact(dense, KeptAxis::kInputs, {1, 1, 1}).status(), "expected 4 marks");
}

TEST(Mask, CountsWeightsWithoutWhatReachesOverTheEdge) {
  TileMask mask = TileMask::all({2, 2}, 3, 5);
  EXPECT_EQ(mask.kept_weights(), 15);
  mask.kept[5] = 0;  // the corner of one weight
  EXPECT_EQ(mask.kept_weights(), 14);
  mask.kept[0] = 0;
  EXPECT_EQ(mask.kept_weights(), 10);
  EXPECT_EQ(mask.kept_tiles(), 4);
}

}  // namespace
}  // namespace tessera
