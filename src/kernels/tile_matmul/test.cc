#include <cmath>
#include <tuple>

#include "base/device.h"
#include "kernels/product_testing.h"
#include "kernels/tile_matmul/tile_matmul.h"
#include "kernels/tile_testing.h"

namespace tessera::tile_matmul {
namespace {

using testing::kEpsilon;
using testing::kNaN;
using testing::RandomTiles;
using testing::TileDraw;

constexpr int64_t kRowCounts[] = {0, 1, 2, 3, 4, 7, 8, 9, 12, 23, 24, 25, 48, 50};
constexpr MatrixOrder kOrders[] = {MatrixOrder::kOutputRows, MatrixOrder::kInputRows};

// A product with everything its arguments point at. x and the packed blocks end exactly where they
// are said to, so that a sanitizer sees a read beyond them.
struct Problem {
  Problem(int64_t rows, const TileDraw& draw, DType type)
      : tiles(draw),
        bias(testing::random_values(draw.outputs, draw.seed + 1)),
        y_stride(draw.outputs + 3),
        residual(testing::random_values(rows * y_stride, draw.seed + 2)) {
    const int64_t x_stride = draw.inputs + 5;
    x = testing::random_values(rows == 0 ? 0 : (rows - 1) * x_stride + draw.inputs, draw.seed + 3);
    const TileStack stack = {tiles.matrix()};
    pattern = find_blocks(stack, block_shape(stack));
    values = host_device().allocate(
        static_cast<size_t>(block_bytes(pattern, type)) * pattern.blocks.size() + 64);
    pack(stack, pattern, type, values.data(), {0, units()});
    args = {.x = x.data(),
            .x_stride = x_stride,
            .rows = rows,
            .inputs = draw.inputs,
            .shape = pattern.shape,
            .panels = pattern.panels.data(),
            .blocks = pattern.blocks.data(),
            .values = values.data(),
            .weight_type = type,
            .bias = bias.data(),
            .residual = residual.data(),
            .residual_stride = y_stride,
            .y_stride = y_stride,
            .group_rows = 48};
  }
  int64_t outputs() const { return tiles.matrix().outputs(); }
  int64_t units() const { return static_cast<int64_t>(pattern.panels.size()); }
  static Buffer scratch(Args& args) {
    Buffer scratch = host_device().allocate(
        static_cast<size_t>(scratch_floats(args.group_rows, args.inputs)) * sizeof(float));
    args.scratch = scratch.as<float>();
    return scratch;
  }
  float weight(int64_t n, int64_t k) const {
    const auto value = static_cast<float>(tiles.weight(n, k));
    return args.weight_type == DType::kF32 ? value : bf16_to_f32(f32_to_bf16(value));
  }

  // Sum over k of x w, and of its terms' magnitudes.
  std::pair<double, double> sum(int64_t m, int64_t n) const {
    double sum = 0, size = 0;
    for (int64_t k = 0; k < args.inputs; ++k) {
      const double term = double{x[m * args.x_stride + k]} * weight(n, k);
      sum += term;
      size += std::abs(term);
    }
    return {sum, size};
  }
  // The header's bound, and the activation's own bound with its slope of at most 1.13.
  double bound(int64_t m, int64_t n) const {
    const double product = 1.13 * (static_cast<double>(args.inputs) / 2 + 8);
    return (product + 8 + 2) * kEpsilon * (sum(m, n).second + std::abs(bias[n]) + 8);
  }

  RandomTiles tiles;
  std::vector<float> bias;
  int64_t y_stride;
  std::vector<float> residual, x;
  TilePattern pattern;
  Buffer values;
  Args args;
};

std::string trace(const Problem& problem) {
  return std::to_string(problem.args.rows) + " rows, " + problem.tiles.trace() + ", stored as " +
         std::string(name(problem.args.weight_type)) +
         testing::activation_trace(problem.args.activation);
}

TEST(TileMatmul, RefIsTheDenseProductOverTheMaskedMatrix) {
  uint32_t seed = 1;
  for (const TileShape tile : {TileShape{16, 16}, {8, 16}, {16, 32}, {32, 32}, {5, 3}, {1, 40}}) {
    for (const MatrixOrder order : kOrders) {
      for (const DType source : {DType::kF32, DType::kF16, DType::kBF16}) {
        for (const DType type : {DType::kF32, DType::kBF16}) {
          const Problem problem(3, {70, 53, tile, order, source, 0.4, ++seed}, type);
          SCOPED_TRACE(trace(problem));
          const std::vector<float> found = testing::run_whole(problem, kernels.rows().back());
          for (int64_t m = 0; m < 3; ++m) {
            for (int64_t n = 0; n < 70; ++n) {
              const auto before = static_cast<float>(problem.sum(m, n).first + problem.bias[n]);
              const float expected = before + problem.residual[m * problem.y_stride + n];
              ASSERT_NEAR(expected, found[m * problem.y_stride + n],
                          2 * kEpsilon * (std::abs(before) + std::abs(expected)))
                  << "row " << m << " output " << n;
            }
          }
        }
      }
    }
  }
}

TEST(TileMatmul, EveryRowAgreesWithRefAtEverySize) {
  uint32_t seed = 100;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const int64_t rows : kRowCounts) {
      for (const int64_t inputs : {1, 15, 16, 17, 64, 100}) {
        for (const int64_t outputs : {1, 8, 15, 16, 17, 40}) {
          const TileShape tile = seed % 3 == 0   ? TileShape{16, 16}
                                 : seed % 3 == 1 ? TileShape{8, 8}
                                                 : TileShape{16, 1};
          Problem problem(
              rows, {outputs, inputs, tile, kOrders[seed % 2], DType::kF32, 0.5, ++seed}, type);
          testing::vary_epilogue(problem.args, seed);
          SCOPED_TRACE(trace(problem));
          ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
        }
      }
    }
  }
}

// However few rows a second-level cache lets be packed at a time, no register tile is so flat that
// its sums have another order.
TEST(TileMatmul, ResultsDoNotDependOnTheCache) {
  EXPECT_EQ(group_rows(3072, int64_t{256} << 10), 24);
  EXPECT_EQ(group_rows(768, int64_t{1} << 20), 168);
  EXPECT_EQ(group_rows(768, int64_t{2} << 20), 336);
  EXPECT_EQ(group_rows(16, int64_t{4} << 20), 384);
  uint32_t seed = 2900;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const int64_t rows : {8, 25, 49, 73, 97, 385}) {
      Problem problem(rows, {40, 200, {16, 16}, MatrixOrder::kOutputRows, DType::kF32, 0.5, ++seed},
                      type);
      testing::for_each_fast_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
        problem.args.group_rows = 384;
        const std::vector<float> whole = testing::run_whole(problem, row);
        for (const int64_t group : {24, 48, 72, 336}) {
          problem.args.group_rows = group;
          EXPECT_TRUE(testing::same_bits(whole, testing::run_whole(problem, row)))
              << trace(problem) << ", in groups of " << group;
        }
      });
    }
  }
}

TEST(TileMatmul, EveryNumberOfRowsOfARegisterTile) {
  uint32_t seed = 3000;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const TileShape tile : {TileShape{16, 16}, {8, 16}, {16, 8}, {8, 8}, {16, 1}}) {
      for (int64_t rows = 1; rows <= 26; ++rows) {
        Problem problem(rows, {37, 70, tile, MatrixOrder::kOutputRows, DType::kF32, 0.5, ++seed},
                        type);
        testing::vary_epilogue(problem.args, seed);
        SCOPED_TRACE(trace(problem));
        ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
      }
    }
  }
}

TEST(TileMatmul, EveryTileShapeAndDensity) {
  uint32_t seed = 5000;
  for (const TileShape tile : {TileShape{16, 16},
                               {8, 16},
                               {16, 8},
                               {16, 32},
                               {32, 16},
                               {32, 32},
                               {64, 64},
                               {16, 1},
                               {32, 5},
                               {4, 4},
                               {24, 40},
                               {1, 1},
                               {200, 1},
                               {1, 200}}) {
    for (const MatrixOrder order : kOrders) {
      for (const double kept : {0.0, 0.1, 0.5, 1.0}) {
        for (const int64_t rows : {1, 30}) {
          const DType type = seed % 3 == 0 ? DType::kBF16 : DType::kF32;
          Problem problem(rows, {90, 130, tile, order, DType::kF32, kept, ++seed}, type);
          testing::vary_epilogue(problem.args, seed);
          SCOPED_TRACE(trace(problem));
          ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
        }
      }
    }
  }
}

TEST(TileMatmul, EveryEpilogue) {
  uint32_t seed = 7000;
  for (const int64_t rows : {1, 13}) {
    for (int choice = 0; choice < testing::kEpilogues; ++choice) {
      const TileShape tile = choice % 4 < 2 ? TileShape{16, 16} : TileShape{8, 16};
      Problem problem(rows, {100, 60, tile, MatrixOrder::kOutputRows, DType::kF32, 0.5, ++seed},
                      DType::kF32);
      testing::choose_epilogue(problem.args, choice);
      SCOPED_TRACE(trace(problem));
      ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
    }
  }
}

TEST(TileMatmul, ManyRowsAndInputs) {
  uint32_t seed = 8000;
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const auto& [rows, inputs, outputs] :
         {std::tuple{97, 1030, 70}, {150, 300, 65}, {3, 3072, 130}, {1, 2049, 130}}) {
      const Problem problem(
          rows, {outputs, inputs, {16, 16}, MatrixOrder::kOutputRows, DType::kF32, 0.3, ++seed},
          type);
      SCOPED_TRACE(trace(problem));
      ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
    }
  }
}

// Panels without blocks, and pruned inputs that are not numbers.
TEST(TileMatmul, NothingKeptGivesTheEpilogueOfZero) {
  for (const KernelRow<Args>& row : kernels.rows()) {
    if (!hardware_has(row.isa)) continue;
    SCOPED_TRACE(row.name);
    for (const int64_t rows : {1, 30}) {
      Problem problem(rows, {40, 33, {16, 16}, MatrixOrder::kOutputRows, DType::kF32, 0.0, 9},
                      DType::kF32);
      std::fill(problem.x.begin(), problem.x.end(), kNaN);
      problem.args.activation = Activation::kRelu;
      const std::vector<float> found = testing::run_whole(problem, row);
      for (int64_t m = 0; m < rows; ++m) {
        for (int64_t n = 0; n < 40; ++n) {
          const int64_t at = m * problem.y_stride + n;
          ASSERT_EQ(std::max(problem.bias[n], 0.0f) + problem.residual[at], found[at]);
        }
      }
    }
  }
}

TEST(TileMatmul, ResidualMayBeTheOutput) {
  const Problem problem(50, {70, 100, {16, 16}, MatrixOrder::kOutputRows, DType::kF32, 0.5, 11},
                        DType::kF32);
  testing::check_residual_as_output(kernels, problem);
}

// Parts of the panels, and of the rows where both have at least 8.
TEST(TileMatmul, PartsGiveTheSameBitsAsTheWhole) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    const Problem problem(61, {130, 100, {8, 16}, MatrixOrder::kInputRows, DType::kF32, 0.5, 12},
                          type);
    testing::for_each_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
      testing::check_parts(problem, row, {8, 30, 23},
                           {{3, 4}, {0, 3}, {4, 4}, {4, problem.units()}});
    });
  }
}

TEST(TilePattern, BlocksFollowFromTheTiles) {
  const auto shape_of = [](TileShape tile, MatrixOrder order) {
    const RandomTiles tiles({64, 64, tile, order, DType::kF32, 1.0, 1});
    const BlockShape shape = block_shape({tiles.matrix()});
    return std::pair{shape.outputs, shape.inputs};
  };
  EXPECT_EQ(shape_of({16, 16}, MatrixOrder::kOutputRows), (std::pair{16, 16}));
  EXPECT_EQ(shape_of({32, 32}, MatrixOrder::kOutputRows), (std::pair{16, 16}));
  EXPECT_EQ(shape_of({8, 16}, MatrixOrder::kOutputRows), (std::pair{8, 16}));
  EXPECT_EQ(shape_of({8, 16}, MatrixOrder::kInputRows), (std::pair{16, 8}));
  EXPECT_EQ(shape_of({4, 8}, MatrixOrder::kOutputRows), (std::pair{8, 8}));
  EXPECT_EQ(shape_of({16, 1}, MatrixOrder::kOutputRows), (std::pair{16, 1}));
  EXPECT_EQ(shape_of({1, 16}, MatrixOrder::kInputRows), (std::pair{16, 1}));
  EXPECT_EQ(shape_of({4, 4}, MatrixOrder::kInputRows), (std::pair{16, 1}));
}

// Tiles of 8, 16 and 32, and of 16 outputs and any inputs, are not padded: what is executed is what
// is kept.
TEST(TilePattern, KeepsNoMoreThanTheTiles) {
  const TileShape shapes[] = {{16, 16}, {8, 16}, {16, 8}, {16, 32},
                              {32, 32}, {64, 8}, {16, 1}, {32, 4}};
  for (const TileShape tile : shapes) {
    for (const MatrixOrder order : kOrders) {
      if (order == MatrixOrder::kInputRows && tile.cols % 8 != 0) continue;
      const RandomTiles tiles({192, 320, tile, order, DType::kF32, 0.3, 4});
      SCOPED_TRACE(tiles.trace());
      const TileStack stack = {tiles.matrix()};
      const TilePattern pattern = find_blocks(stack, block_shape(stack));
      const int64_t executed = static_cast<int64_t>(pattern.blocks.size()) * pattern.shape.inputs *
                               pattern.shape.outputs;
      EXPECT_EQ(executed, tiles.matrix().kept() * tile.rows * tile.cols);
    }
  }
}

TEST(TilePattern, PanelsOfAStackFollowEachOther) {
  const RandomTiles one({20, 50, {16, 16}, MatrixOrder::kOutputRows, DType::kF32, 0.5, 1});
  const RandomTiles two({33, 50, {8, 16}, MatrixOrder::kInputRows, DType::kF32, 0.5, 2});
  const TileStack stack = {one.matrix(), two.matrix()};
  const TilePattern pattern = find_blocks(stack, block_shape(stack));
  EXPECT_EQ(pattern.shape.outputs, 16);
  EXPECT_EQ(pattern.shape.inputs, 8);
  int64_t output = 0;
  int32_t block = 0;
  for (const TilePanel& panel : pattern.panels) {
    EXPECT_EQ(panel.output, output);
    EXPECT_EQ(panel.begin, block);
    for (int32_t b = panel.begin + 1; b < panel.end; ++b) {
      EXPECT_LT(pattern.blocks[b - 1], pattern.blocks[b]);
    }
    output += panel.outputs;
    block = panel.end;
  }
  EXPECT_EQ(output, 53);
  EXPECT_EQ(block, static_cast<int32_t>(pattern.blocks.size()));
}

}  // namespace
}  // namespace tessera::tile_matmul
