#include "runtime/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "runtime/cache_pool.h"

namespace tessera {
namespace {

std::map<int32_t, double> frequencies(const Sampling& sampling, const std::vector<float>& logits,
                                      int draws) {
  Sampler sampler(sampling);
  std::map<int32_t, double> counts;
  for (int i = 0; i < draws; ++i) counts[sampler.next(logits).value()] += 1.0 / draws;
  return counts;
}

TEST(Sampler, GreedyTakesTheFirstLargest) {
  Sampler sampler({});
  EXPECT_EQ(sampler.next(std::vector<float>{1, 3, 2, 3}).value(), 1);
  EXPECT_EQ(sampler.next(std::vector<float>{-INFINITY, -5}).value(), 1);
}

TEST(Sampler, FindsTheLargestAnywhereAndWhatIsNoNumber) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (size_t size : {1, 3, 1023, 1024, 1025, 3000}) {
    std::vector<float> logits(size, -2.0f);
    for (size_t at : {size_t{0}, size / 2, size - 1}) {
      for (float largest : {-1.0f, 0.0f, 1e-40f, 7.0f}) {
        std::vector<float> some = logits;
        some[at] = some[size - 1] = largest;
        EXPECT_EQ(largest_logit(some).value(), static_cast<int32_t>(at)) << size;
      }
      for (float bad : {kNan, -kNan, INFINITY}) {
        std::vector<float> some = logits;
        some[at] = bad;
        EXPECT_FALSE(largest_logit(some).ok()) << size << " " << at << " " << bad;
      }
    }
  }
  EXPECT_EQ(largest_logit(std::vector<float>{-1, -0.0f, 0.0f}).value(), 1);
}

TEST(Sampler, DrawsByProbability) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  constexpr int kDraws = 20000;
  const auto found = frequencies({.temperature = 1, .seed = 3}, logits, kDraws);
  // Five standard deviations of a binomial share.
  const auto bound = [](double p) { return 5 * std::sqrt(p * (1 - p) / kDraws); };
  EXPECT_NEAR(found.at(0), 0.5, bound(0.5));
  EXPECT_NEAR(found.at(1), 0.3, bound(0.3));
  EXPECT_NEAR(found.at(2), 0.2, bound(0.2));
}

TEST(Sampler, TopKAndTopPCutTheTail) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f),
                                     std::log(0.3f)};
  const auto top_k = frequencies({.temperature = 1, .top_k = 2, .seed = 4}, logits, 2000);
  EXPECT_EQ(top_k.size(), 2u);
  EXPECT_TRUE(top_k.contains(1) && top_k.contains(3));
  const auto top_p = frequencies({.temperature = 1, .top_p = 0.65f, .seed = 4}, logits, 2000);
  EXPECT_EQ(top_p.size(), 2u);
  const auto tiny_p = frequencies({.temperature = 1, .top_p = 1e-6f, .seed = 4}, logits, 100);
  EXPECT_EQ(tiny_p.size(), 1u);
  EXPECT_TRUE(tiny_p.contains(1));
}

// Far more tokens stay than are put in order at once. The logits are so close together that 20000
// draws miss one that stays with a probability below e^-40.
TEST(Sampler, TopPKeepsTheFewestOfManyTokens) {
  std::mt19937 generator(6);
  std::vector<float> logits(400);
  for (float& logit : logits) logit = std::uniform_real_distribution<float>(0, 0.5f)(generator);
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  const auto weight = [&](int32_t id) { return std::exp(logits[static_cast<size_t>(id)]); };
  double total = 0;
  for (const int32_t id : order) total += weight(id);
  for (const float top_p : {0.1f, 0.2f, 0.6f}) {
    std::vector<int32_t> expected, found;
    for (double kept = 0; kept < top_p * total; kept += weight(expected.back()))
      expected.push_back(order[expected.size()]);
    std::sort(expected.begin(), expected.end());
    for (const auto& [token, share] :
         frequencies({.temperature = 1, .top_p = top_p, .seed = 7}, logits, 20000))
      found.push_back(token);
    EXPECT_EQ(found, expected) << top_p;
  }
}

// There are so many tokens that they are summed, and the most probable is searched, in blocks; a
// few hold all of the weight, next to each other and apart.
TEST(Sampler, DrawsAmongManyTokens) {
  constexpr int kDraws = 1000;
  const std::map<int32_t, double> shares = {{3, 0.4}, {4, 0.1}, {2047, 0.3}, {7999, 0.2}};
  for (const float rest : {-INFINITY, -300.0f}) {
    std::vector<float> logits(8000, rest);
    for (const auto& [id, share] : shares)
      logits[static_cast<size_t>(id)] = static_cast<float>(std::log(share));
    for (const Sampling& sampling :
         {Sampling{.temperature = 1}, Sampling{.temperature = 1, .top_k = 4},
          Sampling{.temperature = 1, .top_k = 20}, Sampling{.temperature = 1, .top_p = 0.95f},
          Sampling{.temperature = 1, .min_p = 0.2f}}) {
      const auto found = frequencies(sampling, logits, kDraws);
      ASSERT_EQ(found.size(), shares.size()) << rest << " " << sampling.top_k;
      for (const auto& [id, share] : shares) {
        EXPECT_NEAR(found.at(id), share, 5 * std::sqrt(share * (1 - share) / kDraws)) << id;
      }
    }
  }
}

TEST(Sampler, TopKTakesTheLargestWhereverTheyAre) {
  for (const size_t size : {100, 5000, 32000}) {
    for (const int32_t top_k : {1, 7, 40}) {
      std::mt19937 generator(static_cast<unsigned>(size) + static_cast<unsigned>(top_k));
      // Many are equal, and the first of these stay.
      std::uniform_int_distribution<int> coarse(0, 3);
      std::vector<float> logits(size);
      for (float& logit : logits) logit = static_cast<float>(coarse(generator)) * 0.01f;
      std::vector<int32_t> order(size);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
      });
      std::vector<int32_t> expected(order.begin(), order.begin() + top_k), found;
      std::sort(expected.begin(), expected.end());
      for (const auto& [token, share] :
           frequencies({.temperature = 1, .top_k = top_k, .seed = 2}, logits, 800))
        found.push_back(token);
      EXPECT_EQ(found, expected) << size << " " << top_k;
    }
  }
}

TEST(Sampler, ATinyTemperatureIsGreedy) {
  for (const float temperature : {1e-6f, 1e-40f})
    EXPECT_EQ(Sampler({.temperature = temperature}).next(std::vector<float>{1, 3, 2}).value(), 1);
}

TEST(Sampler, MinPIsRelativeToTheLargestAfterTheTemperature) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.15f),
                                     std::log(0.25f)};
  // Relative to the largest: 0.2, 1, 0.3, 0.5.
  const auto kept = [&](Sampling sampling) {
    sampling.seed = 5;
    std::vector<int32_t> tokens;
    for (const auto& [token, share] : frequencies(sampling, logits, 2000)) tokens.push_back(token);
    return tokens;
  };
  EXPECT_EQ(kept({.temperature = 1, .min_p = 0.25f}), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(kept({.temperature = 1, .min_p = 0.4f}), (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(kept({.temperature = 1, .min_p = 1}), (std::vector<int32_t>{1}));
  // Temperature 2 takes square roots: 0.45, 1, 0.55, 0.71.
  EXPECT_EQ(kept({.temperature = 2, .min_p = 0.4f}), (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(kept({.temperature = 1, .top_k = 2, .min_p = 0.25f}), (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(kept({.temperature = 1, .top_p = 0.7f, .min_p = 0.25f}), (std::vector<int32_t>{1, 3}));
}

TEST(Sampler, PenalisesWhatWasSeen) {
  const std::vector<float> logits = {4, 3, -1, -2, -INFINITY, 3e38f};
  const std::vector<int32_t> seen = {0, 2, 0, 4};
  std::vector<float> found = logits;
  penalise(logits, seen, 2, found);
  EXPECT_EQ(found, (std::vector<float>{2, 3, -2, -2, -INFINITY, 3e38f}));
  penalise(logits, std::vector<int32_t>{5}, 1e-3f, found);
  EXPECT_TRUE(std::isfinite(found[5]));

  Sampler greedy({.repetition_penalty = 2});
  const std::vector<float> close = {4, 3, -1};
  EXPECT_EQ(greedy.next(close).value(), 0);
  EXPECT_EQ(greedy.next(close, std::vector<int32_t>{0}).value(), 1);
  EXPECT_EQ(greedy.next(close, std::vector<int32_t>{0, 1}).value(), 0);
  // Before the temperature: 4 / 2 and 3 at temperature 0.01 leave no doubt.
  const auto drawn =
      Sampler({.temperature = 0.01f, .repetition_penalty = 2}).next(close, std::vector<int32_t>{0});
  EXPECT_EQ(drawn.value(), 1);
}

TEST(Sampler, LogSumExpOfLargeScores) {
  EXPECT_DOUBLE_EQ(log_sum_exp(std::vector<float>{0, 0}), std::log(2.0));
  EXPECT_DOUBLE_EQ(log_sum_exp(std::vector<float>{3000, 3000, -INFINITY}), 3000 + std::log(2.0));
  for (const size_t size : {1, 63, 1024, 1025, 50257}) {
    std::mt19937 generator(static_cast<unsigned>(size));
    std::normal_distribution<float> normal(-3, 4);
    std::vector<float> logits(size);
    double sum = 0;
    for (float& logit : logits) sum += std::exp(double{logit = normal(generator)});
    const double bound = (std::log2(static_cast<double>(size)) + 8) * 0x1p-24;
    EXPECT_NEAR(log_sum_exp(logits), std::log(sum), bound) << size;
  }
}

TEST(Sampler, RefusesScoresThatAreNoNumbers) {
  for (const Sampling& sampling : {Sampling{}, Sampling{.temperature = 0.8f, .top_p = 0.95f}}) {
    Sampler sampler(sampling);
    EXPECT_FALSE(sampler.next(std::vector<float>{1, NAN, 2}).ok());
    EXPECT_FALSE(sampler.next(std::vector<float>{1, INFINITY}).ok());
    EXPECT_FALSE(sampler.next(std::vector<float>{-INFINITY, -INFINITY}).ok());
    EXPECT_FALSE(sampler.next(std::vector<float>{}).ok());
    EXPECT_EQ(sampler.next(std::vector<float>{-INFINITY, 1e30f}).value(), 1);
  }
}

TEST(Sampler, RefusesBadSettings) {
  EXPECT_FALSE(check_sampling({.temperature = NAN}).ok());
  EXPECT_FALSE(check_sampling({.temperature = 1, .top_k = -1}).ok());
  EXPECT_FALSE(check_sampling({.temperature = 1, .top_p = 1.5f}).ok());
  const auto message = [](const Sampling& sampling) { return check_sampling(sampling).message(); };
  EXPECT_EQ(message({.min_p = 1.5f}), "min_p: expected a number in [0, 1], found 1.5");
  EXPECT_EQ(message({.min_p = -0.5f}), "min_p: expected a number in [0, 1], found -0.5");
  EXPECT_EQ(message({.repetition_penalty = 0}),
            "repetition_penalty: expected a number > 0, found 0");
  EXPECT_FALSE(check_sampling({.min_p = NAN}).ok());
  EXPECT_FALSE(check_sampling({.repetition_penalty = INFINITY}).ok());
  EXPECT_TRUE(check_sampling({.min_p = 1, .repetition_penalty = 0.5f}).ok());
  EXPECT_TRUE(check_sampling({}).ok());
}

class CachePoolOf : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, CachePoolOf,
                         ::testing::Values(DType::kF32, DType::kBF16, DType::kI8),
                         [](const auto& info) { return std::string(name(info.param)); });

TEST_P(CachePoolOf, SharesPagesUntilWritten) {
  const PageShape shape{.kv_heads = 1, .d_k = 2, .d_v = 2, .dtype = GetParam()};
  CachePool pool(shape, 1 << 20);
  PageTable first;
  ASSERT_TRUE(pool.reserve(first, 70).ok());
  EXPECT_EQ(first.pages.size(), 2u);
  for (int32_t i = 0; i < 70; ++i) first.positions.push_back(i);
  first.pages[1][0] = first.pages[1][shape.page_bytes() - 1] = std::byte{42};
  PageTable second = pool.share(first);
  EXPECT_EQ(pool.bytes_in_use(), 2 * pool.page_bytes());
  ASSERT_TRUE(pool.reserve(second, 1).ok());
  EXPECT_EQ(second.pages[0], first.pages[0]);
  EXPECT_NE(second.pages[1], first.pages[1]);
  EXPECT_EQ(second.pages[1][0], std::byte{42});
  EXPECT_EQ(second.pages[1][shape.page_bytes() - 1], std::byte{42});
  second.pages[1][0] = std::byte{43};
  EXPECT_EQ(first.pages[1][0], std::byte{42});
  EXPECT_EQ(pool.bytes_in_use(), 3 * pool.page_bytes());
  pool.release(first);
  EXPECT_EQ(pool.bytes_in_use(), 2 * pool.page_bytes());
  pool.release(second);
  EXPECT_EQ(pool.bytes_in_use(), 0);
}

TEST(CachePool, KeepsWithinItsLimit) {
  const PageShape shape{.kv_heads = 1, .d_k = 2, .d_v = 2};
  CachePool pool(shape, 2 * shape.page_bytes());
  PageTable table;
  EXPECT_TRUE(pool.reserve(table, 128).ok());
  PageTable other;
  EXPECT_EQ(pool.reserve(other, 1).code(), StatusCode::kOutOfMemory);
  pool.release(table);
  EXPECT_TRUE(pool.reserve(other, 1).ok());
}

}  // namespace
}  // namespace tessera
