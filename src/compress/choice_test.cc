#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "compress/allocation.h"
#include "compress/cholesky.h"
#include "compress/mask.h"
#include "compress/repair.h"
#include "compress/sha256.h"
#include "compress/testing.h"
#include "formats/packed.h"

namespace tessera {
namespace {

using testing::loss;
using testing::random_statistics;
using testing::random_weight;

constexpr uint32_t kSeed = 71;

TEST(Mask, ExactlySoManyTilesGoEvenWhereAllAreEqual) {
  for (const int64_t count : {0, 1, 7, 11, 12}) {
    TileMask mask = TileMask::all({16, 16}, 48, 64);
    prune_least(std::vector<double>(12, 1.0), count, mask);
    EXPECT_EQ(mask.kept_tiles(), 12 - count);
    // The first go.
    for (int64_t i = 0; i < 12; ++i)
      EXPECT_EQ(mask.kept[static_cast<size_t>(i)], i < count ? 0 : 1);
  }
}

TEST(Mask, TheLeastGo) {
  TileMask mask = TileMask::all({1, 1}, 2, 3);
  prune_least({5, 1, 3, 2, 6, 1}, 3, mask);
  EXPECT_EQ(mask.kept, (std::vector<uint8_t>{1, 0, 1, 0, 1, 0}));
}

TEST(Mask, BalancedTakesAsManyFromEachRow) {
  TileMask mask = TileMask::all({1, 1}, 3, 4);
  prune_balanced({1, 2, 3, 4, 40, 30, 20, 10, 7, 7, 7, 7}, 7, mask);
  EXPECT_EQ(mask.kept, (std::vector<uint8_t>{0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1}));
}

TEST(Mask, GlobalRanksByScoreAWeightAndStopsAtTheBudget) {
  TileMask small = TileMask::all({1, 1}, 1, 4), large = TileMask::all({2, 2}, 2, 4);
  const std::vector<double> first = {1, 2, 3, 4}, second = {4, 100};  // a weight: 2, 50
  prune_global({{&first, &small}, {&second, &large}}, 6);
  EXPECT_EQ(small.kept, (std::vector<uint8_t>{0, 0, 1, 1}));
  EXPECT_EQ(large.kept, (std::vector<uint8_t>{0, 1}));
}

TEST(Mask, SharesAreRoundedToTheNearestCount) {
  EXPECT_EQ(pruned_count(0, 10), 0);
  EXPECT_EQ(pruned_count(0.84, 10), 8);
  EXPECT_EQ(pruned_count(0.86, 10), 9);
  EXPECT_EQ(pruned_count(1, 10), 10);
}

TEST(Mask, ScoresAreNormsOfWhatLiesInTheMatrix) {
  Weight weight{3, 3, {1, 2, 3, 4, 5, 6, 7, 8, 9}};
  const std::vector<double> scores = tile_scores(weight, {2, 2});
  EXPECT_DOUBLE_EQ(scores[0], std::sqrt(1 + 4 + 16 + 25));
  EXPECT_DOUBLE_EQ(scores[1], std::sqrt(9 + 36));
  EXPECT_DOUBLE_EQ(scores[2], std::sqrt(49 + 64));
  EXPECT_DOUBLE_EQ(scores[3], 9);
  EXPECT_DOUBLE_EQ(tile_scores(weight, {2, 2}, {1, 1, 10})[3], 90);
}

TEST(Mask, TransposingTwiceGivesTheSame) {
  TileMask mask = TileMask::all({8, 16}, 20, 50);
  for (size_t i = 0; i < mask.kept.size(); ++i) mask.kept[i] = i % 3 == 0;
  const TileMask turned = transposed(mask);
  EXPECT_EQ(turned.rows, 50);
  EXPECT_EQ(turned.tile.rows, 16);
  EXPECT_EQ(turned.keeps(1, 2), mask.keeps(2, 1));
  EXPECT_EQ(transposed(turned).kept, mask.kept);
}

class Systems : public ::testing::TestWithParam<int64_t> {};

TEST_P(Systems, AreSolvedAndInverted) {
  const int64_t n = GetParam();
  const Weight root = random_weight(n, n + 4, kSeed);
  std::vector<double> a(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t k = 0; k < n + 4; ++k)
        a[static_cast<size_t>(i * n + j)] += static_cast<double>(root.row(i)[k]) * root.row(j)[k];
    }
    a[static_cast<size_t>(i * n + i)] += 1;
  }
  Team team(2);
  std::vector<double> factor = a, alone = a;
  ASSERT_TRUE(factor_cholesky(factor.data(), n, &team));
  ASSERT_TRUE(factor_cholesky(alone.data(), n, nullptr));
  EXPECT_EQ(factor, alone);
  std::vector<double> x(static_cast<size_t>(3 * n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i % 5) - 2;
  const std::vector<double> b = x;
  solve_cholesky(factor.data(), n, x.data(), 3);
  std::vector<double> half(a.size()), inverse(a.size());
  invert_factor(factor.data(), n, half.data(), &team);
  multiply_by_transpose(half.data(), n, inverse.data(), &team);
  // The condition number is at most the trace, the smallest eigenvalue being 1 or more.
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += a[static_cast<size_t>(i * n + i)];
  const double tolerance = 8 * static_cast<double>(n) * 2.3e-16 * trace;
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < n; ++j)
        sum += a[static_cast<size_t>(i * n + j)] * x[static_cast<size_t>(r * n + j)];
      EXPECT_NEAR(sum, b[static_cast<size_t>(r * n + i)], tolerance) << "n " << n;
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < n; ++k)
        sum += a[static_cast<size_t>(i * n + k)] * inverse[static_cast<size_t>(k * n + j)];
      EXPECT_NEAR(sum, i == j ? 1 : 0, tolerance) << "n " << n;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Sizes, Systems, ::testing::Values(1, 2, 5, 31, 32, 33, 67, 130));

TEST(Cholesky, AMatrixThatIsNotPositiveDefiniteIsRefused) {
  std::vector<double> a = {1, 2, 2, 1}, nan = {NAN};
  EXPECT_FALSE(factor_cholesky(a.data(), 2, nullptr));
  EXPECT_FALSE(factor_cholesky(nan.data(), 1, nullptr));
}

// With few pruned tiles and with many, which are solved in different ways: what is left is where
// the loss has no slope.
TEST(Repair, TilesAreLeftWhereTheLossIsLeast) {
  const int64_t outputs = 20, inputs = 42;
  const InputStatistics statistics = random_statistics(inputs, 300, kSeed);
  const Weight whole = random_weight(outputs, inputs, kSeed + 9);
  Team team(2);
  for (const Centre centre : {Centre::kNo, Centre::kYes}) {
    for (const int64_t pruned_tiles : {4, 12}) {
      Hessian hessian = make_hessian(statistics, centre);
      TileMask mask = TileMask::all({8, 8}, outputs, inputs);
      prune_least(tile_scores(whole, mask.tile), pruned_tiles, mask);
      Weight plain = whole, repaired = whole;
      clear_pruned(mask, sizeof(float), plain.values.data());
      ASSERT_TRUE(repair_tiles(mask, hessian, repaired, team).ok());
      const double least = loss(whole, repaired, hessian);
      EXPECT_LT(least, loss(whole, plain, hessian));
      double largest = 0;
      for (const double value : hessian.values) largest = std::max(largest, std::abs(value));
      for (int64_t o = 0; o < outputs; ++o) {
        for (int64_t i = 0; i < inputs; ++i) {
          if (!mask.keeps(o / 8, i / 8)) {
            EXPECT_EQ(repaired.row(o)[i], 0);
            continue;
          }
          double slope = 0;
          for (int64_t j = 0; j < inputs; ++j) {
            slope += (static_cast<double>(repaired.row(o)[j]) - whole.row(o)[j]) *
                     hessian.values[static_cast<size_t>(j * inputs + i)];
          }
          // Weights are rounded to f32.
          EXPECT_NEAR(slope, 0, inputs * largest * 8 * 6e-8) << "seed " << kSeed;
        }
      }
    }
  }
}

TEST(Repair, NothingPrunedChangesNothingAndEverythingPrunedIsZero) {
  const InputStatistics statistics = random_statistics(10, 50, kSeed);
  Hessian hessian = make_hessian(statistics, Centre::kNo);
  const Weight whole = random_weight(6, 10, kSeed);
  Team team(1);
  TileMask mask = TileMask::all({4, 4}, 6, 10);
  Weight same = whole;
  ASSERT_TRUE(repair_tiles(mask, hessian, same, team).ok());
  EXPECT_EQ(same.values, whole.values);
  mask.kept.assign(mask.kept.size(), 0);
  ASSERT_TRUE(repair_tiles(mask, hessian, same, team).ok());
  EXPECT_EQ(same.values, std::vector<float>(60, 0.0f));
}

TEST(Repair, ElementsLoseLessThanWithoutIt) {
  const InputStatistics statistics = random_statistics(40, 300, kSeed);
  Hessian hessian = make_hessian(statistics, Centre::kYes);
  const Weight whole = random_weight(12, 40, kSeed + 3);
  TileMask mask = TileMask::all({1, 1}, 12, 40);
  prune_least(tile_scores(whole, mask.tile, statistics.norms()), 240, mask);
  Weight plain = whole, repaired = whole;
  clear_pruned(mask, sizeof(float), plain.values.data());
  Team team(2);
  ASSERT_TRUE(repair_elements(mask, hessian, repaired, team).ok());
  for (size_t i = 0; i < mask.kept.size(); ++i) {
    if (mask.kept[i] != 0) continue;
    EXPECT_EQ(repaired.values[i], 0);
  }
  EXPECT_LT(loss(whole, repaired, hessian), loss(whole, plain, hessian));
}

TEST(Repair, OneInputThatGoesLeavesTheRestAsTheClosedFormSays) {
  // With one pruned input the sweep is exact: W'_k = W_k - W_j H^-1_jk / H^-1_jj.
  const InputStatistics statistics = random_statistics(9, 60, kSeed);
  Hessian hessian = make_hessian(statistics, Centre::kNo);
  const Weight whole = random_weight(4, 9, kSeed);
  TileMask mask = TileMask::all({1, 1}, 4, 9);
  for (int64_t o = 0; o < 4; ++o) mask.kept[static_cast<size_t>(o * 9)] = 0;
  Weight sweep = whole, exact = whole;
  Team team(1);
  ASSERT_TRUE(repair_elements(mask, hessian, sweep, team).ok());
  ASSERT_TRUE(repair_tiles(mask, hessian, exact, team).ok());
  for (size_t i = 0; i < exact.values.size(); ++i)
    EXPECT_NEAR(sweep.values[i], exact.values[i], 1e-5 * (1 + std::abs(exact.values[i])));
}

TEST(Repair, TheErrorIsThatOfTheOutputs) {
  const InputStatistics statistics = random_statistics(24, 100, kSeed);
  const Weight whole = random_weight(7, 24, kSeed);
  Weight pruned = whole;
  std::fill_n(pruned.values.begin(), 50, 0.0f);
  Team team(2);
  Hessian plain = make_hessian(statistics, Centre::kNo),
          centred = make_hessian(statistics, Centre::kYes);
  // Without the damping.
  for (Hessian* hessian : {&plain, &centred}) {
    for (int64_t i = 0; i < 24; ++i) {
      const double mean = hessian == &centred ? statistics.mean(i) : 0;
      hessian->values[static_cast<size_t>(i * 25)] =
          statistics.products[static_cast<size_t>(i * 25)] / 100.0 - mean * mean;
    }
  }
  const Weight none{7, 24, std::vector<float>(7 * 24)};
  const double total = loss(whole, none, plain);
  const auto found = output_error(whole, pruned, statistics, {}, team);
  ASSERT_TRUE(found.ok());
  EXPECT_NEAR(*found, std::sqrt(loss(whole, pruned, plain) / total), 1e-4);
  const auto about_means =
      output_error(whole, pruned, statistics, bias_shift(whole, pruned, statistics), team);
  EXPECT_NEAR(*about_means, std::sqrt(loss(whole, pruned, centred) / total), 1e-4);
  EXPECT_EQ(*output_error(whole, whole, statistics, {}, team), 0);
}

TEST(Allocation, SpendsWhereTheErrorIsLeast) {
  const ErrorCurve sensitive{100, {0, 0.5, 1}, {0, 0.8, 1.6}},
      robust{100, {0, 0.5, 1}, {0, 0.1, 1}};
  const std::vector<double> shares = allocate({sensitive, robust}, 0.5);
  EXPECT_DOUBLE_EQ(shares[1], 0.5);
  EXPECT_DOUBLE_EQ(shares[0], 0.5);
  const std::vector<double> less = allocate({sensitive, robust}, 0.25);
  EXPECT_DOUBLE_EQ(less[0], 0);
  EXPECT_DOUBLE_EQ(less[1], 0.5);
}

TEST(Allocation, ReachesTheBudgetWhateverTheCurves) {
  std::mt19937 generator(kSeed);
  std::uniform_real_distribution<double> uniform;
  std::vector<ErrorCurve> curves;
  double total = 0;
  for (int64_t weights : {10, 400, 1000, 37}) {
    curves.push_back({weights,
                      {0, 0.3, 0.6, 0.9, 1},
                      {0, uniform(generator), uniform(generator), uniform(generator), 1}});
    total += static_cast<double>(weights);
  }
  for (const double share : {0.0, 0.1, 0.5, 0.93, 1.0}) {
    const std::vector<double> shares = allocate(curves, share);
    double pruned = 0;
    for (size_t i = 0; i < shares.size(); ++i) {
      EXPECT_GE(shares[i], 0);
      EXPECT_LE(shares[i], 1 + 1e-12);
      pruned += shares[i] * static_cast<double>(curves[i].weights);
    }
    EXPECT_NEAR(pruned, share * total, 1e-9 * total) << "seed " << kSeed;
  }
}

TEST(Sha256, GivesTheStandardsExamples) {
  const auto hash = [](const std::string& text, size_t piece) {
    Sha256 sum;
    for (size_t i = 0; i < text.size(); i += piece)
      sum.add(text.data() + i, std::min(piece, text.size() - i));
    return sum.finish();
  };
  EXPECT_EQ(hash("", 1), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hash("abc", 2), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  EXPECT_EQ(hash(two, 56), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  const std::string million(1000000, 'a');
  const char* expected = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
  EXPECT_EQ(hash(million, 1000000), expected);
  EXPECT_EQ(hash(million, 77), expected);
}

}  // namespace
}  // namespace tessera
