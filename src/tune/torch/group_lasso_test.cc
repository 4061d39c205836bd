#include "tune/torch/group_lasso.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "formats/tile_mask.h"
#include "tune/torch/prune_testing.h"

namespace tessera::training {
namespace {

using Method = PruneTraining::Method;

constexpr int64_t kRows = 37, kCols = 83;
const TileShape kTiles[] = {{16, 16},   {16, 1},    {1, 16}, {8, 32},  {1, 1},
                            {1, kCols}, {kRows, 1}, {3, 70}, {64, 128}};

// Norms of tiles by plain sums.
std::vector<double> plain_norms(const at::Tensor& weight, TileShape tile) {
  const TileMask grid = TileMask::all(tile, weight.size(0), weight.size(1));
  std::vector<double> squares(static_cast<size_t>(grid.tiles()));
  const at::Tensor values = weight.detach().to(at::kDouble);
  const auto a = values.accessor<double, 2>();
  for (int64_t r = 0; r < weight.size(0); ++r) {
    for (int64_t c = 0; c < weight.size(1); ++c)
      squares[static_cast<size_t>(r / tile.rows * grid.tile_cols() + c / tile.cols)] +=
          a[r][c] * a[r][c];
  }
  for (double& square : squares) square = std::sqrt(square);
  return squares;
}

double plain_penalty(const at::Tensor& weight, TileShape tile, double lambda,
                     const at::Tensor& betas) {
  const std::vector<double> norms = plain_norms(weight, tile);
  double sum = 0;
  for (size_t i = 0; i < norms.size(); ++i)
    sum += norms[i] * (betas.defined() ? betas[static_cast<int64_t>(i)].item<double>() : 1);
  return lambda * sum;
}

at::Tensor some_betas(TileShape tile) {
  return at::rand({TileMask::all(tile, kRows, kCols).tiles()}, at::kDouble) + 0.5;
}

// Away from 0, where the norm of a single weight has no derivative.
at::Tensor some_weights() {
  const at::Tensor values = at::randn({kRows, kCols}, at::kDouble);
  return at::sign(values) * (values.abs() + 0.1);
}

TEST(GroupLasso, PenaltyEqualsDoubleSums) {
  at::manual_seed(3);
  for (const TileShape tile : kTiles) {
    const at::Tensor weight = at::randn({kRows, kCols});
    for (const at::Tensor& betas : {at::Tensor(), some_betas(tile)}) {
      at::Tensor gradient = at::zeros_like(weight);
      const double expected = plain_penalty(weight, tile, 0.3, betas);
      // Squares of f32 are exact in f64; only the order of their sums differs.
      EXPECT_NEAR(add_group_lasso(weight, tile, 0.3, betas, gradient), expected,
                  kRows * kCols * 2.3e-16 * expected)
          << tile.rows << " x " << tile.cols;
    }
  }
}

TEST(GroupLasso, GradientEqualsFiniteDifferences) {
  at::manual_seed(4);
  constexpr double kLambda = 0.3, kStep = 1e-5;
  for (const TileShape tile : kTiles) {
    const at::Tensor weight = some_weights(), betas = some_betas(tile);
    at::Tensor gradient = at::zeros_like(weight), unused = at::zeros_like(weight);
    const double penalty = add_group_lasso(weight, tile, kLambda, betas, gradient);
    // The two values differ by roundings of the penalty; the third derivative of a norm is at most
    // 3 / norm^2, and no weight is smaller than 0.1.
    const double tolerance = 4 * kRows * kCols * 2.3e-16 * penalty / kStep / 100 +
                             kLambda * 1.5 * 3 / 0.01 * kStep * kStep;
    for (int64_t i = 0; i < weight.numel(); i += 7) {
      double* value = weight.data_ptr<double>() + i;
      const double kept = *value;
      *value = kept + kStep;
      const double above = add_group_lasso(weight, tile, kLambda, betas, unused);
      *value = kept - kStep;
      const double below = add_group_lasso(weight, tile, kLambda, betas, unused);
      *value = kept;
      ASSERT_NEAR(gradient.data_ptr<double>()[i], (above - below) / (2 * kStep), tolerance)
          << tile.rows << " x " << tile.cols << " at " << i;
    }
  }
}

TEST(GroupLasso, ZeroTilesHaveZeroGradientsAndOthersAreAddedTo) {
  at::manual_seed(5);
  at::Tensor weight = at::randn({kRows, kCols});
  weight.slice(0, 16, 32).slice(1, 16, 48).zero_();
  at::Tensor gradient = at::full({kRows, kCols}, 2.0f);
  const at::Tensor betas = at::full({3 * 6}, 1 / kReweightingEpsilon, at::kDouble);
  add_group_lasso(weight, {16, 16}, 0.1, betas, gradient);
  EXPECT_TRUE(at::equal(gradient.slice(0, 16, 32).slice(1, 16, 48), at::full({16, 32}, 2.0f)));
  at::Tensor expected = at::full({kRows, kCols}, 2.0, at::kDouble);
  add_group_lasso(weight.to(at::kDouble), {16, 16}, 0.1, betas, expected);
  // A factor and a product are rounded, and the sum: 3 roundings of at most 2 + 100 |w| / norm.
  EXPECT_LT((gradient.to(at::kDouble) - expected).abs().max().item<double>(), 3 * 6e-8 * 102);
}

TEST(GroupLasso, ThreadsDoNotChangeABit) {
  at::manual_seed(6);
  const at::Tensor weight = at::randn({300, 700});
  const int threads = at::get_num_threads();
  std::vector<at::Tensor> gradients;
  std::vector<double> penalties;
  for (const int count : {1, 3}) {
    at::set_num_threads(count);
    gradients.push_back(at::zeros_like(weight));
    penalties.push_back(add_group_lasso(weight, {16, 16}, 0.1, {}, gradients.back()));
  }
  at::set_num_threads(threads);
  EXPECT_EQ(penalties[0], penalties[1]);
  EXPECT_TRUE(at::equal(gradients[0], gradients[1]));
}

at::Tensor betas_of(const ToyTraining& training, const std::string& name) {
  const auto state = training.restrictions[0]->state();
  const auto found = state.find("group_lasso.beta." + name);
  return found == state.end() ? at::Tensor() : found->second.clone();
}

at::Tensor expected_betas(ToyTraining& training, const std::string& name) {
  std::vector<double> betas = plain_norms(find(training.model, name).value, {16, 16});
  for (double& beta : betas) beta = 1 / (beta + 1e-3);
  return at::tensor(betas, at::kDouble);
}

TEST(GroupLasso, NormsAreDividedByNewOnesAtMilestonesOnly) {
  TuneOptions options = pruning_options(Method::kReweighted, 0.5, 20);
  for (const std::vector<int64_t>& milestones :
       {std::vector<int64_t>{}, std::vector<int64_t>{3, 7}}) {
    options.prune->milestones = milestones;
    const std::vector<int64_t> expected =
        milestones.empty() ? std::vector<int64_t>{2, 4, 6, 8} : milestones;
    ToyTraining training(options);
    training.begin();
    at::Tensor before = betas_of(training, "1.up");
    ASSERT_TRUE(at::allclose(before, expected_betas(training, "1.up"), 1e-12, 0));
    for (int64_t step = 0; step < 10; ++step) {
      training.step(step);
      const at::Tensor now = betas_of(training, "1.up");
      if (std::count(expected.begin(), expected.end(), step + 1) == 0) {
        EXPECT_TRUE(at::equal(now, before)) << step;
      } else {
        EXPECT_TRUE(at::allclose(now, expected_betas(training, "1.up"), 1e-12, 0)) << step;
        EXPECT_FALSE(at::equal(now, before)) << step;
      }
      before = now;
    }
  }
}

TEST(GroupLasso, PenaltyEndsWithItsPhase) {
  ToyTraining training(pruning_options(Method::kGroupLasso, 0.5, 20));
  training.begin();
  double expected = 0;
  for (const auto& stored : training.model.matrices)
    expected += plain_penalty(stored.weight->value, {16, 16}, 0.05, {});
  EXPECT_NEAR(training.step(0), expected, 1e-11 * expected);
  training.run(1, 9);
  EXPECT_GT(training.step(9), 0);
  EXPECT_EQ(training.step(10), 0);
}

}  // namespace
}  // namespace tessera::training
