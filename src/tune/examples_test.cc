#include "tune/examples.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <set>

#include "tune/random.h"

namespace tessera::training {
namespace {

TEST(Random, IsAFunctionOfWhatItIsMadeOf) {
  Random a(7, Random::Use::kOrder, 3), b(7, Random::Use::kOrder, 3);
  Random others[] = {Random(8, Random::Use::kOrder, 3), Random(7, Random::Use::kMasks, 3),
                     Random(7, Random::Use::kOrder, 4)};
  int equal = 0;
  for (int i = 0; i < 100; ++i) {
    const int64_t drawn = a.below(int64_t{1} << 40);
    EXPECT_EQ(drawn, b.below(int64_t{1} << 40));
    for (Random& other : others) equal += drawn == other.below(int64_t{1} << 40) ? 1 : 0;
  }
  EXPECT_EQ(equal, 0);
}

TEST(Random, IsEven) {
  // 60,000 throws of a die: a face's count is binomial, within 5 standard deviations of its mean
  // but for one seed in 300,000.
  const double mean = 10000, deviation = std::sqrt(60000 * (1.0 / 6) * (5.0 / 6));
  int64_t counts[6] = {}, happened = 0;
  Random random(11, Random::Use::kMasks, 0);
  for (int i = 0; i < 60000; ++i) ++counts[random.below(6)];
  for (const int64_t count : counts) EXPECT_NEAR(static_cast<double>(count), mean, 5 * deviation);
  for (int i = 0; i < 60000; ++i) happened += random.happens(1.0 / 6) ? 1 : 0;
  EXPECT_NEAR(static_cast<double>(happened), mean, 5 * deviation);
  EXPECT_EQ(random.below(1), 0);
  EXPECT_TRUE(random.happens(1));
}

// Blocks of an epoch are each token once, in the order of the stream, and none is too long.
void expect_tiles(int32_t tokens, int64_t block, Predict predict) {
  SCOPED_TRACE(::testing::Message() << tokens << " tokens, blocks of " << block);
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  std::iota(ids.begin(), ids.end(), 0);
  const TokenStream stream(ids, block, predict, 5);
  const int32_t read = tokens - (predict == Predict::kNextToken ? 1 : 0);
  EXPECT_EQ(stream.size(), read);
  std::set<int64_t> first_lengths;
  for (int64_t epoch = 0; epoch < 40; ++epoch) {
    Batch batch;
    for (int64_t i = 0; i < stream.count(epoch); ++i) {
      const int64_t before = batch.tokens();
      stream.append(epoch, i, batch);
      EXPECT_EQ(batch.tokens() - before, stream.tokens(epoch, i));
      EXPECT_GE(stream.tokens(epoch, i), 1);
      EXPECT_LE(stream.tokens(epoch, i), block);
      const bool inner = i > 0 && i + 1 < stream.count(epoch);
      EXPECT_EQ(inner ? stream.tokens(epoch, i) : block, block);
    }
    EXPECT_EQ(batch.ids, std::vector<int32_t>(ids.begin(), ids.begin() + read));
    EXPECT_GE(stream.count(epoch), stream.least_count());
    first_lengths.insert(stream.tokens(epoch, 0));
    if (predict == Predict::kNothing) {
      EXPECT_TRUE(batch.rows.empty() && batch.labels.empty());
      continue;
    }
    EXPECT_EQ(batch.labels, std::vector<int32_t>(ids.begin() + 1, ids.end()));
    EXPECT_EQ(batch.rows, batch.ids);  // which count from 0
  }
  const bool can_differ = block > 1 && read > block;
  EXPECT_GE(first_lengths.size(), can_differ ? 2u : 1u);
}

TEST(TokenStream, TilesTheStreamInEachEpoch) {
  for (const Predict predict : {Predict::kNothing, Predict::kNextToken}) {
    for (const int32_t tokens : {2, 3, 7, 8, 9, 50}) {
      for (const int64_t block : {1, 2, 7, 8, 100}) expect_tiles(tokens, block, predict);
    }
  }
  expect_tiles(1, 4, Predict::kNothing);
}

TEST(ExampleList, GivesWhatItWasGiven) {
  ExampleList list;
  list.add({.tokens = {{1, 2}, {}}, .rows = {1}, .labels = {9}});
  list.add({.tokens = {{3, 4, 5}, {0, 1, 1}}, .rows = {0, 2}, .labels = {7, 8}});
  EXPECT_EQ(list.size(), 2);
  EXPECT_EQ(list.tokens(0, 1), 3);
  Batch batch;
  for (const int64_t example : {1, 0, 1}) list.append(0, example, batch);
  EXPECT_EQ(batch.ids, std::vector<int32_t>({3, 4, 5, 1, 2, 3, 4, 5}));
  EXPECT_EQ(batch.type_ids, std::vector<int32_t>({0, 1, 1, 0, 0, 0, 1, 1}));
  EXPECT_EQ(batch.offsets, std::vector<int32_t>({0, 3, 5, 8}));
  EXPECT_EQ(batch.rows, std::vector<int32_t>({0, 2, 4, 5, 7}));
  EXPECT_EQ(batch.labels, std::vector<int32_t>({7, 8, 9, 7, 8}));
  EXPECT_TRUE(batch.values.empty());
}

TEST(ExampleList, KeepsPairsAndValues) {
  ExampleList list;
  list.add({.tokens = {{1, 2}, {}}, .second = TokenSequence{{3}, {}}, .value = 0.5f});
  list.add({.tokens = {{4}, {}}, .second = TokenSequence{{5, 6}, {}}, .value = -1.0f});
  EXPECT_TRUE(list.has_values());
  Batch batch;
  list.append(0, 1, batch);
  list.append(0, 0, batch);
  EXPECT_EQ(batch.ids, std::vector<int32_t>({4, 5, 6, 1, 2, 3}));
  EXPECT_TRUE(batch.type_ids.empty());
  EXPECT_EQ(batch.offsets, std::vector<int32_t>({0, 1, 3, 5, 6}));
  EXPECT_EQ(batch.sequences(), 4);
  EXPECT_EQ(batch.values, std::vector<float>({-1, 0.5f}));
}

}  // namespace
}  // namespace tessera::training
