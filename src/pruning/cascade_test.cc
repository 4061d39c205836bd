#include "pruning/cascade.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

constexpr QueryReach kEverybody = {};

std::vector<int32_t> chosen(TokenCascade& cascade, int32_t layer) {
  size_t rows = 0;
  for (const int32_t length : cascade.lengths()[static_cast<size_t>(layer)])
    rows += static_cast<size_t>(length);
  std::vector<int32_t> kept(rows, -1);
  cascade.choose(layer, kept);
  return kept;
}

std::vector<int32_t> alive(const TokenCascade& cascade, size_t sequence) {
  const std::span<const int32_t> rows = cascade.alive(sequence);
  return {rows.begin(), rows.end()};
}

// Two sequences of 4 and 3 tokens; heads are summed, layers accumulated, places are those among the
// rows of the layer before.
TEST(TokenCascade, KeepsWhatWasAttendedToMost) {
  TokenCascade cascade({}, {{.first_row = 0, .tokens = 4}, {.first_row = 4, .tokens = 3}},
                       {{4, 3}, {3, 2}, {2, 2}, {1, 1}});
  EXPECT_EQ(3, cascade.scored_layers());
  cascade.add(0, std::vector<float>{1, 0, 3, 0, 0, 1, 0, 2}.data(), 2, kEverybody);  // 1 1 3 2
  cascade.add(1, std::vector<float>{1, 5, 2}.data(), 1, kEverybody);
  // Of the equal tokens 0 and 1 the first stays.
  EXPECT_EQ((std::vector<int32_t>{0, 2, 3, 5, 6}), chosen(cascade, 1));
  EXPECT_EQ((std::vector<int32_t>{0, 2, 3}), alive(cascade, 0));
  EXPECT_EQ((std::vector<int32_t>{5, 6}), alive(cascade, 1));
  cascade.add(0, std::vector<float>{4, 0, 0}.data(), 1, kEverybody);  // 5 3 2
  cascade.add(1, std::vector<float>{0, 4}.data(), 1, kEverybody);     // 5 6
  EXPECT_EQ((std::vector<int32_t>{0, 1, 3, 4}), chosen(cascade, 2));
  EXPECT_EQ((std::vector<int32_t>{0, 3}), chosen(cascade, 3));
  EXPECT_EQ((std::vector<int32_t>{0}), alive(cascade, 0));
  EXPECT_EQ((std::vector<int32_t>{6}), alive(cascade, 1));
}

TEST(TokenCascade, ProtectedRowsNeverLeave) {
  TokenCascade cascade({}, {{.first_row = 2, .tokens = 5, .kept_rows = {2, 6}}}, {{5}, {3}, {2}});
  cascade.add(0, std::vector<float>{0, 9, 8, 7, 0}.data(), 1, kEverybody);
  EXPECT_EQ((std::vector<int32_t>{0, 1, 4}), chosen(cascade, 1));
  EXPECT_EQ((std::vector<int32_t>{0, 2}), chosen(cascade, 2));
  EXPECT_EQ((std::vector<int32_t>{2, 6}), alive(cascade, 0));
}

TEST(TokenCascade, EarlierLayersDecay) {
  for (const double decay : {1.0, 0.25}) {
    TokenCascade cascade({.decay = decay}, {{.tokens = 2}}, {{2}, {2}, {1}});
    cascade.add(0, std::vector<float>{4, 0}.data(), 1, kEverybody);
    cascade.add(0, std::vector<float>{0, 2}.data(), 1, kEverybody);
    EXPECT_FLOAT_EQ(static_cast<float>(4 * decay), cascade.importance(0)[0]);
    EXPECT_EQ((std::vector<int32_t>{decay == 1 ? 0 : 1}), chosen(cascade, 2));
  }
}

// With a causal mask token j of n is seen by n - j queries, with a window of 2 by at most 2.
TEST(TokenCascade, ImportanceByTheQueriesThatSeeAToken) {
  const std::vector<float> mass = {4, 3, 2, 1};
  TokenCascade causal({.scale = ImportanceScale::kQueries}, {{.tokens = 4}}, {{4}});
  causal.add(0, mass.data(), 1, {.is_causal = true});
  for (size_t j = 0; j < 4; ++j) EXPECT_FLOAT_EQ(1, causal.importance(0)[j]);
  TokenCascade windowed({.scale = ImportanceScale::kQueries}, {{.tokens = 4}}, {{4}});
  windowed.add(0, mass.data(), 1, {.is_causal = true, .window = 2});
  EXPECT_FLOAT_EQ(2, windowed.importance(0)[0]);
  EXPECT_FLOAT_EQ(1, windowed.importance(0)[2]);
  EXPECT_FLOAT_EQ(1, windowed.importance(0)[3]);
  TokenCascade both_ways({.scale = ImportanceScale::kQueries}, {{.tokens = 4}}, {{4}});
  both_ways.add(0, mass.data(), 1, kEverybody);
  EXPECT_FLOAT_EQ(1, both_ways.importance(0)[0]);
}

}  // namespace
}  // namespace tessera
