#include "pruning/heads.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace tessera {
namespace {

using Flags = std::vector<uint8_t>;

ScheduledModel model_of(int32_t layers, int32_t heads) {
  return {.layers = layers, .query_heads = heads, .positions = 100, .vocabulary = 10};
}

PruningSchedule counts(const std::vector<int32_t>& heads) {
  PruningSchedule schedule;
  for (const int32_t count : heads) schedule.heads.push_back({.count = count});
  return schedule;
}

// The definition, set by set.
struct Sets {
  std::vector<double> scores;
  std::vector<Flags> alive;  // [layer], of the step before
  bool scored = false;

  Flags choose(size_t layer, int32_t kept, bool keeps_all) {
    Flags candidates = alive[layer];
    for (size_t h = 0; layer > 0 && h < candidates.size(); ++h)
      candidates[h] = candidates[h] != 0 && alive[layer - 1][h] != 0 ? 1 : 0;
    if (scored && !keeps_all) {
      std::vector<size_t> order;
      for (size_t h = 0; h < candidates.size(); ++h) {
        if (candidates[h] != 0) order.push_back(h);
      }
      std::stable_sort(order.begin(), order.end(),
                       [&](size_t a, size_t b) { return scores[a] > scores[b]; });
      for (size_t i = static_cast<size_t>(kept); i < order.size(); ++i) candidates[order[i]] = 0;
    }
    return alive[layer] = candidates;
  }
  void add(const std::vector<float>& magnitudes, int64_t rows) {
    for (size_t i = 0; i < magnitudes.size(); ++i)
      scores[i % scores.size()] += double{magnitudes[i]};
    scored = scored || rows > 0;
  }
};

// Texts, prompts of every kind and the tokens behind them, with many equal scores.
TEST(HeadCascade, IsTheDefinition) {
  std::mt19937 random(3);
  for (const Prefill prefill : {Prefill::kPrune, Prefill::kScore, Prefill::kSkip}) {
    for (const std::vector<int32_t>& kept : std::vector<std::vector<int32_t>>{
             {8, 8, 5, 5, 2}, {3, 3, 3, 1, 1}, {8, 8, 8, 8, 8}, {1, 1, 1, 1, 1}, {8, 7, 6, 5, 4}}) {
      const PruningSchedule schedule = counts(kept);
      HeadCascade cascade(schedule, model_of(5, 8), prefill);
      Sets sets{.scores = std::vector<double>(8), .alive = std::vector<Flags>(5, Flags(8, 1))};
      for (int32_t step = 0; step < 6; ++step) {
        const int32_t rows = step == 0 ? 4 : 1;
        cascade.begin(step == 0 ? 0 : 3 + step, rows);
        const bool skips = prefill == Prefill::kSkip && step < 2;
        const bool keeps_all = skips || (prefill == Prefill::kScore && step == 0);
        std::vector<Flags> before = sets.alive;
        for (int32_t layer = 0; layer < 5; ++layer) {
          SCOPED_TRACE(std::string(name(prefill)) + ", step " + std::to_string(step) + ", layer " +
                       std::to_string(layer));
          Flags live(8, 7);
          cascade.choose(layer, live);
          const auto at = static_cast<size_t>(layer);
          ASSERT_EQ(sets.choose(at, kept[at], keeps_all), live);
          for (size_t h = 0; h < 8; ++h) {
            EXPECT_LE(live[h], before[at][h]) << "came back";
            EXPECT_LE(live[h], layer > 0 ? sets.alive[at - 1][h] : 1) << "came back";
            EXPECT_EQ(live[h] != 0, cascade.is_alive(static_cast<int32_t>(h), layer));
          }
          const auto alive = std::count(live.begin(), live.end(), 1);
          const bool chooses = sets.scored && !keeps_all;
          EXPECT_EQ(chooses ? kept[at] : 8, alive);
          std::vector<float> magnitudes(static_cast<size_t>(8 * rows));
          for (size_t i = 0; i < magnitudes.size(); ++i)
            magnitudes[i] = live[i % 8] != 0 ? static_cast<float>(random() % 4) : 0.0f;
          if (prefill == Prefill::kSkip && step == 0) {
            EXPECT_FALSE(cascade.observes(layer));
          } else {
            // What cannot change a choice may be left out.
            sets.add(magnitudes, rows);
            cascade.add(magnitudes.data(), rows);
          }
        }
      }
      EXPECT_FALSE(cascade.may_drop());
      // Whatever is run again begins with every head.
      cascade.begin(0, 9);
      Flags live(8);
      cascade.choose(0, live);
      EXPECT_EQ(Flags(8, 1), live);
    }
  }
}

// Importance that decides nothing is not asked for.
TEST(HeadCascade, ObservesWhatDecides) {
  HeadCascade text(counts({8, 8, 4, 4}), model_of(4, 8), Prefill::kPrune);
  EXPECT_TRUE(text.observes(0));
  EXPECT_TRUE(text.observes(1));
  EXPECT_FALSE(text.observes(2));
  HeadCascade whole(counts({8, 8, 8, 8}), model_of(4, 8), Prefill::kPrune);
  EXPECT_FALSE(whole.observes(0));
  EXPECT_FALSE(whole.may_drop());
  HeadCascade prompt(counts({8, 8, 4, 4}), model_of(4, 8), Prefill::kScore);
  EXPECT_TRUE(prompt.observes(3));
  // Its heads leave in the step behind the prompt.
  HeadCascade single(counts({4}), model_of(1, 8), Prefill::kPrune);
  EXPECT_TRUE(single.observes(0));
}

// Of equal heads the first ones stay.
TEST(HeadCascade, TiesGoByIndex) {
  HeadCascade cascade(counts({4, 2}), model_of(2, 4), Prefill::kPrune);
  Flags live(4);
  cascade.choose(0, live);
  EXPECT_EQ((Flags{1, 1, 1, 1}), live);
  const std::vector<float> magnitudes = {1, 3, 1, 1};
  cascade.add(magnitudes.data(), 1);
  cascade.choose(1, live);
  EXPECT_EQ((Flags{1, 1, 0, 0}), live);
}

}  // namespace
}  // namespace tessera
