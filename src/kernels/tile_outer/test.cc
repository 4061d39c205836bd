#include <cmath>

#include "kernels/tile_outer/tile_outer.h"
#include "kernels/tile_testing.h"

namespace tessera::tile_outer {
namespace {

using testing::RandomTiles;

constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kUntouched = 1234.5f;

// A gradient with everything its arguments point at; dy and x end exactly where they are said to.
struct Problem {
  Problem(int64_t rows, const testing::TileDraw& draw)
      : tiles(draw), stack{tiles.matrix()}, pattern(find_blocks(stack, block_shape(stack, 8))) {
    const int64_t dy_stride = draw.outputs + 3, x_stride = draw.inputs + 5;
    dy = testing::random_values(rows == 0 ? 0 : (rows - 1) * dy_stride + draw.outputs, draw.seed);
    x = testing::random_values(rows == 0 ? 0 : (rows - 1) * x_stride + draw.inputs, draw.seed + 1);
    args = {.dy = dy.data(),
            .dy_stride = dy_stride,
            .x = x.data(),
            .x_stride = x_stride,
            .rows = rows,
            .inputs = draw.inputs,
            .shape = pattern.shape,
            .panels = pattern.panels.data(),
            .blocks = pattern.blocks.data(),
            .dw_stride = draw.inputs + 1,
            .group_rows = 48};
  }

  std::vector<float> run(const KernelRow<Args>& row, std::initializer_list<Exec> parts) const {
    std::vector<float> dw(
        static_cast<size_t>((tiles.matrix().outputs() - 1) * args.dw_stride + args.inputs),
        kUntouched);
    Args with = args;
    with.dw = dw.data();
    for (const Exec& part : parts) row.run(with, part);
    return dw;
  }
  std::vector<float> run(const KernelRow<Args>& row) const {
    return run(row, {{0, static_cast<int64_t>(pattern.panels.size())}});
  }

  bool is_kept(int64_t n, int64_t k) const {
    const TilePanel& panel = pattern.panels[static_cast<size_t>(n / pattern.shape.outputs)];
    const auto block = static_cast<int32_t>(k / pattern.shape.inputs);
    return std::binary_search(pattern.blocks.begin() + panel.begin,
                              pattern.blocks.begin() + panel.end, block);
  }

  // Calls check(n, k, place in dw, sum, sum of the terms' magnitudes).
  template <typename Check>
  void for_each(Check check) const {
    for (int64_t n = 0; n < tiles.matrix().outputs(); ++n) {
      for (int64_t k = 0; k < args.inputs; ++k) {
        double sum = 0, size = 0;
        for (int64_t m = 0; m < args.rows; ++m) {
          const double term = double{dy[static_cast<size_t>(m * args.dy_stride + n)]} *
                              x[static_cast<size_t>(m * args.x_stride + k)];
          sum += term;
          size += std::abs(term);
        }
        check(n, k, static_cast<size_t>(n * args.dw_stride + k), sum, size);
      }
    }
  }

  RandomTiles tiles;
  TileStack stack;
  TilePattern pattern;
  std::vector<float> dy, x;
  Args args;
};

constexpr TileShape kTiles[] = {{16, 16}, {8, 16}, {16, 8}, {8, 8}, {32, 32}};

template <typename Visit>
void for_each_problem(Visit visit) {
  uint32_t seed = 0;
  for (const TileShape tile : kTiles) {
    for (const int64_t rows : {0, 1, 2, 47, 48, 49, 100}) {
      for (const auto& [outputs, inputs] :
           {std::pair<int64_t, int64_t>{1, 1}, {7, 9}, {16, 16}, {33, 31}, {70, 100}}) {
        for (const double kept : {0.0, 0.5, 1.0}) {
          const Problem problem(
              rows,
              {.outputs = outputs, .inputs = inputs, .tile = tile, .kept = kept, .seed = ++seed});
          SCOPED_TRACE(std::to_string(rows) + " rows, " + problem.tiles.trace());
          visit(problem);
        }
      }
    }
  }
}

TEST(TileOuter, RefIsThePlainSumOfKeptBlocks) {
  for_each_problem([](const Problem& problem) {
    const std::vector<float> found = problem.run(kernels.rows().back());
    problem.for_each([&](int64_t n, int64_t k, size_t at, double sum, double) {
      const double expected = problem.is_kept(n, k) ? sum : kUntouched;
      ASSERT_NEAR(expected, found[at], kEpsilon * std::abs(expected)) << n << ", " << k;
    });
  });
}

TEST(TileOuter, FastRowsEqualRef) {
  for_each_problem([](const Problem& problem) {
    const std::vector<float> expected = problem.run(kernels.rows().back());
    testing::for_each_fast_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
      const std::vector<float> found = problem.run(row);
      problem.for_each([&](int64_t n, int64_t k, size_t at, double, double size) {
        // The header's bound; what is not kept is as it was.
        const double roundings = static_cast<double>(problem.args.rows) / 2 + 8;
        const double bound = problem.is_kept(n, k) ? roundings * kEpsilon * size : 0;
        ASSERT_NEAR(expected[at], found[at], bound) << n << ", " << k;
      });
    });
  });
}

TEST(TileOuter, PartsGiveTheSameBitsAsTheWhole) {
  const Problem problem(130, {.outputs = 130, .inputs = 100, .tile = {16, 16}, .seed = 12});
  testing::for_each_fast_row(kernels, problem.args, [&](const KernelRow<Args>& row) {
    const auto panels = static_cast<int64_t>(problem.pattern.panels.size());
    EXPECT_EQ(problem.run(row), problem.run(row, {{3, 4}, {0, 3}, {4, 4}, {4, panels}}));
  });
}

}  // namespace
}  // namespace tessera::tile_outer
