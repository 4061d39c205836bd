#include <cmath>
#include <cstring>
#include <random>
#include <tuple>

#include "base/device.h"
#include "kernels/product_testing.h"
#include "kernels/tile_int8_matmul/tile_int8_matmul.h"
#include "kernels/tile_testing.h"

namespace tessera::tile_int8_matmul {
namespace {

using testing::kEpsilon;
using testing::kNaN;
using testing::RandomTiles;
using testing::TileDraw;

constexpr int64_t kRowCounts[] = {0, 1, 2, 3, 4, 7, 8, 9, 12, 23, 24, 25, 48, 50};
constexpr MatrixOrder kOrders[] = {MatrixOrder::kOutputRows, MatrixOrder::kInputRows};

// Random rows of bytes, whose memory ends with the last row.
struct RandomRows {
  RandomRows(int64_t rows, int64_t inputs, uint32_t seed)
      : layout(u8_rows_layout(rows, inputs)),
        memory(host_device().allocate(static_cast<size_t>(layout.bytes))) {
    std::mt19937 generator(seed);
    auto* bytes = memory.as<uint8_t>();
    auto* scales = reinterpret_cast<float*>(bytes + layout.scales);
    auto* zeros = reinterpret_cast<int32_t*>(bytes + layout.zeros);
    for (int64_t m = 0; m < rows; ++m) {
      scales[m] = static_cast<float>(1 + generator() % 100) / 64;
      zeros[m] = m % 5 == 0 ? 0 : m % 5 == 1 ? 255 : static_cast<int32_t>(generator() % 256);
      for (int64_t k = 0; k < u8_padded_inputs(inputs); ++k) {
        const uint32_t drawn = generator() % 300;  // the largest is not rare
        const auto value = static_cast<uint8_t>(drawn < 256 ? drawn : 255);
        bytes[m * layout.stride + k] = k < inputs ? value : static_cast<uint8_t>(zeros[m]);
      }
    }
    rows_ = rows_in(bytes, layout);
  }
  double value(int64_t m, int64_t k) const {
    return double{rows_.scales[m]} * (rows_.values[m * rows_.stride + k] - rows_.zeros[m]);
  }

  U8RowsLayout layout;
  Buffer memory;
  U8Rows rows_;
};

// A product with everything its arguments point at. The packed blocks end exactly where they are
// said to, so that a sanitizer sees a read beyond them.
struct Problem {
  Problem(int64_t rows, const TileDraw& draw)
      : tiles(draw),
        x(rows, draw.inputs, draw.seed + 3),
        bias(testing::random_values(draw.outputs, draw.seed + 1)),
        y_stride(draw.outputs + 3),
        residual(testing::random_values(rows * y_stride, draw.seed + 2)) {
    const TileStack stack = {tiles.matrix()};
    pattern = find_blocks(stack, block_shape(stack, 8));
    values = host_device().allocate(static_cast<size_t>(pattern.values()) + 64);
    sums = host_device().allocate(pattern.panels.size() * 16 * sizeof(int32_t));
    pack(stack, pattern, values.as<int8_t>(), sums.as<int32_t>(), {0, units()});
    args = {.x = x.rows_,
            .rows = rows,
            .inputs = draw.inputs,
            .shape = pattern.shape,
            .panels = pattern.panels.data(),
            .blocks = pattern.blocks.data(),
            .values = values.as<int8_t>(),
            .scales = tiles.matrix().scales,
            .sums = sums.as<int32_t>(),
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
        static_cast<size_t>(scratch_bytes(std::min(args.rows, args.group_rows), args.inputs)));
    args.scratch = scratch.data();
    return scratch;
  }

  double sum(int64_t m, int64_t n) const {
    double sum = 0;
    for (int64_t k = 0; k < args.inputs; ++k) sum += x.value(m, k) * tiles.weight(n, k);
    return sum;
  }
  // The header's bound, and the activation's own bound with its slope of at most 1.13.
  double bound(int64_t m, int64_t n) const {
    const double size = std::abs(sum(m, n)) + std::abs(bias[n]);
    return (1.13 * 3 + 8 + 2) * kEpsilon * (size + 8);
  }

  RandomTiles tiles;
  RandomRows x;
  std::vector<float> bias;
  int64_t y_stride;
  std::vector<float> residual;
  TilePattern pattern;
  Buffer values, sums;
  Args args;
};

std::string trace(const Problem& problem) {
  return std::to_string(problem.args.rows) + " rows, " + problem.tiles.trace() +
         testing::activation_trace(problem.args.activation);
}

TEST(TileInt8Matmul, RefIsTheDenseProductOverTheMaskedMatrix) {
  uint32_t seed = 1;
  for (const TileShape tile : {TileShape{16, 16}, {8, 16}, {16, 32}, {32, 32}, {5, 3}, {1, 40}}) {
    for (const MatrixOrder order : kOrders) {
      const Problem problem(3, {70, 53, tile, order, DType::kI8, 0.4, ++seed});
      SCOPED_TRACE(trace(problem));
      const std::vector<float> found = testing::run_whole(problem, kernels.rows().back());
      for (int64_t m = 0; m < 3; ++m) {
        for (int64_t n = 0; n < 70; ++n) {
          const auto before = static_cast<float>(problem.sum(m, n) + problem.bias[n]);
          const float expected = before + problem.residual[m * problem.y_stride + n];
          ASSERT_NEAR(expected, found[m * problem.y_stride + n],
                      2 * kEpsilon * (std::abs(before) + std::abs(expected)))
              << "row " << m << " output " << n;
        }
      }
    }
  }
}

TEST(TileInt8Matmul, EveryRowAgreesWithRefAtEverySize) {
  uint32_t seed = 100;
  for (const int64_t rows : kRowCounts) {
    for (const int64_t inputs : {1, 15, 16, 17, 64, 100}) {
      for (const int64_t outputs : {1, 8, 15, 16, 17, 40}) {
        const TileShape tile = seed % 2 == 0 ? TileShape{16, 16} : TileShape{8, 8};
        Problem problem(rows, {outputs, inputs, tile, kOrders[seed % 2], DType::kI8, 0.5, ++seed});
        testing::vary_epilogue(problem.args, seed);
        SCOPED_TRACE(trace(problem));
        ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
      }
    }
  }
}

TEST(TileInt8Matmul, EveryNumberOfRowsOfARegisterTile) {
  uint32_t seed = 3000;
  for (const TileShape tile : {TileShape{16, 16}, {8, 16}, {16, 8}, {8, 8}}) {
    for (int64_t rows = 1; rows <= 26; ++rows) {
      Problem problem(rows, {37, 70, tile, MatrixOrder::kOutputRows, DType::kI8, 0.5, ++seed});
      testing::vary_epilogue(problem.args, seed);
      SCOPED_TRACE(trace(problem));
      ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
    }
  }
}

TEST(TileInt8Matmul, EveryTileShapeAndDensity) {
  uint32_t seed = 5000;
  for (const TileShape tile : {TileShape{16, 16},
                               {8, 16},
                               {16, 8},
                               {16, 32},
                               {32, 16},
                               {32, 32},
                               {64, 64},
                               {4, 4},
                               {24, 40},
                               {1, 1},
                               {200, 1},
                               {1, 200}}) {
    for (const MatrixOrder order : kOrders) {
      for (const double kept : {0.0, 0.1, 0.5, 1.0}) {
        for (const int64_t rows : {1, 30}) {
          Problem problem(rows, {90, 130, tile, order, DType::kI8, kept, ++seed});
          testing::vary_epilogue(problem.args, seed);
          SCOPED_TRACE(trace(problem));
          ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
        }
      }
    }
  }
}

TEST(TileInt8Matmul, EveryEpilogue) {
  uint32_t seed = 7000;
  for (const int64_t rows : {1, 13}) {
    for (int choice = 0; choice < testing::kEpilogues; ++choice) {
      const TileShape tile = choice % 4 < 2 ? TileShape{16, 16} : TileShape{8, 16};
      Problem problem(rows, {100, 60, tile, MatrixOrder::kOutputRows, DType::kI8, 0.5, ++seed});
      testing::choose_epilogue(problem.args, choice);
      SCOPED_TRACE(trace(problem));
      ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
    }
  }
}

TEST(TileInt8Matmul, ManyRowsAndInputs) {
  uint32_t seed = 8000;
  for (const auto& [rows, inputs, outputs] :
       {std::tuple{97, 1030, 70}, {150, 300, 65}, {3, 3072, 130}, {1, 2049, 130}}) {
    const Problem problem(
        rows, {outputs, inputs, {16, 16}, MatrixOrder::kOutputRows, DType::kI8, 0.3, ++seed});
    SCOPED_TRACE(trace(problem));
    ASSERT_NO_FATAL_FAILURE(testing::check_rows(kernels, problem));
  }
}

// The largest sums there are, of both signs: x of 255 and 0 about zeros of 0 and 255, weights of
// 127 and -127.
TEST(TileInt8Matmul, TheLargestSumsAreExact) {
  constexpr int64_t kRows = 4, kOutputs = 3;
  std::vector<int8_t> values(static_cast<size_t>(16 * kMaxInputs));
  std::vector<int32_t> offsets = {0, static_cast<int32_t>(kMaxInputs / 16)}, columns;
  for (int32_t c = 0; c < kMaxInputs / 16; ++c) columns.push_back(c);
  const std::vector<float> scales = {1, 1, 1};
  const TileMatrix matrix{
      values.data(), DType::kI8,     kOutputs,       kMaxInputs,   MatrixOrder::kOutputRows,
      {16, 16},      offsets.data(), columns.data(), scales.data()};
  for (size_t v = 0; v < values.size(); ++v) {
    const size_t output = v / 16 % 16;
    values[v] = output == 0 ? 127 : output == 1 ? -127 : 0;
  }
  const TileStack stack = {matrix};
  const TilePattern pattern = find_blocks(stack, block_shape(stack, 8));
  const Buffer packed = host_device().allocate(static_cast<size_t>(pattern.values()));
  const Buffer sums = host_device().allocate(16 * sizeof(int32_t));
  pack(stack, pattern, packed.as<int8_t>(), sums.as<int32_t>(), {0, 1});
  const U8RowsLayout layout = u8_rows_layout(kRows, kMaxInputs);
  const Buffer memory = host_device().allocate(static_cast<size_t>(layout.bytes));
  const U8Rows rows = rows_in(memory.data(), layout);
  for (int64_t m = 0; m < kRows; ++m) {
    std::memset(memory.as<char>() + m * layout.stride, m % 2 == 0 ? 255 : 0,
                static_cast<size_t>(kMaxInputs));
    reinterpret_cast<float*>(memory.as<char>() + layout.scales)[m] = 1;
    reinterpret_cast<int32_t*>(memory.as<char>() + layout.zeros)[m] = m / 2 == 0 ? 0 : 255;
  }
  std::vector<float> y(kRows * kOutputs);
  Args args{.x = rows,
            .rows = kRows,
            .inputs = kMaxInputs,
            .shape = pattern.shape,
            .panels = pattern.panels.data(),
            .blocks = pattern.blocks.data(),
            .values = packed.as<int8_t>(),
            .scales = scales.data(),
            .sums = sums.as<int32_t>(),
            .y = y.data(),
            .y_stride = kOutputs,
            .group_rows = 24};
  const Buffer scratch = Problem::scratch(args);
  for (const KernelRow<Args>& row : kernels.rows()) {
    if (!hardware_has(row.isa)) continue;
    SCOPED_TRACE(row.name);
    row.run(args, {0, 1});
    for (int64_t m = 0; m < kRows; ++m) {
      const int64_t difference = (m % 2 == 0 ? 255 : 0) - (m / 2 == 0 ? 0 : 255);
      const auto expected = static_cast<float>(difference * 127 * kMaxInputs);
      EXPECT_EQ(y[m * kOutputs], expected) << m;
      EXPECT_EQ(y[m * kOutputs + 1], -expected) << m;
      EXPECT_EQ(y[m * kOutputs + 2], 0) << m;
    }
  }
}

TEST(TileInt8Matmul, NothingKeptGivesTheEpilogueOfZero) {
  for (const KernelRow<Args>& row : kernels.rows()) {
    if (!hardware_has(row.isa)) continue;
    SCOPED_TRACE(row.name);
    for (const int64_t rows : {1, 30}) {
      Problem problem(rows, {40, 33, {16, 16}, MatrixOrder::kOutputRows, DType::kI8, 0.0, 9});
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

// A row that could not be quantized.
TEST(TileInt8Matmul, ARowThatIsNotFiniteGivesNaN) {
  Problem problem(2, {40, 33, {16, 16}, MatrixOrder::kOutputRows, DType::kI8, 0.7, 10});
  const_cast<float*>(problem.args.x.scales)[1] = kNaN;
  testing::for_each_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
    const std::vector<float> found = testing::run_whole(problem, row);
    for (int64_t n = 0; n < 40; ++n) {
      EXPECT_FALSE(std::isnan(found[n]));
      EXPECT_TRUE(std::isnan(found[problem.y_stride + n]));
    }
  });
}

TEST(TileInt8Matmul, ResidualMayBeTheOutput) {
  const Problem problem(50, {70, 100, {16, 16}, MatrixOrder::kOutputRows, DType::kI8, 0.5, 11});
  testing::check_residual_as_output(kernels, problem);
}

// Parts of the panels and of the rows, of any size.
TEST(TileInt8Matmul, PartsGiveTheSameBitsAsTheWhole) {
  const Problem problem(61, {130, 100, {8, 16}, MatrixOrder::kInputRows, DType::kI8, 0.5, 12});
  testing::for_each_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
    testing::check_parts(problem, row, {1, 3, 34, 23},
                         {{3, 4}, {0, 3}, {4, 4}, {4, problem.units()}});
  });
}

}  // namespace
}  // namespace tessera::tile_int8_matmul
