#include "pruning/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tessera {
namespace {

constexpr ScheduledModel kBert{.layers = 12, .positions = 512, .vocabulary = 30522};

PruningSchedule parsed(const std::string& text, const ScheduledModel& model = kBert) {
  const Result<PruningSchedule> schedule = parse_schedule(text, model, "schedule.json");
  EXPECT_TRUE(schedule.ok()) << schedule.status().message();
  return schedule.ok() ? *schedule : PruningSchedule();
}

void expect_refused(const std::string& text, const std::string& message,
                    const ScheduledModel& model = kBert) {
  const Result<PruningSchedule> schedule = parse_schedule(text, model, "schedule.json");
  ASSERT_FALSE(schedule.ok()) << text;
  EXPECT_EQ("schedule.json: " + message, schedule.status().message()) << text;
}

// The published example: half of BERT-base's tokens on average.
TEST(PruningSchedule, AnAverageFallsLinearlyBehindLayersThatKeepAll) {
  const PruningSchedule schedule = parsed(R"({"tokens": 0.5})");
  ASSERT_EQ(12u, schedule.tokens.size());
  double sum = 0;
  for (const Keep& keep : schedule.tokens) sum += keep.share;
  EXPECT_NEAR(6, sum, 1e-9);
  EXPECT_EQ(1, schedule.tokens[1].share);
  EXPECT_NEAR(0.75, schedule.tokens[2].share, 1e-9);
  EXPECT_NEAR(0.05, schedule.tokens[11].share, 1e-9);
}

TEST(PruningSchedule, AveragesOfFewLayersAndOfAll) {
  EXPECT_TRUE(parsed(R"({"tokens": 1})").keeps_all());
  for (const int32_t layers : {1, 2, 3, 6, 24}) {
    const auto keeps = average_keep(0.7, layers);
    ASSERT_TRUE(keeps.ok());
    double sum = 0;
    for (const Keep& keep : *keeps) sum += keep.share;
    EXPECT_NEAR(0.7 * layers, sum, 1e-9) << layers;
  }
}

// GPT-2 small of the paper: shares of 1024 positions, whatever the length.
TEST(PruningSchedule, PublishedCountsOfKeys) {
  const ScheduledModel gpt2{.layers = 12, .positions = 1024, .vocabulary = 50257};
  const PruningSchedule schedule = parsed(
      R"({"tokens": [0.9, 0.7, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], "base": "positions"})",
      gpt2);
  const std::vector<int32_t> expected = {921, 716, 204, 204, 204, 204,
                                         102, 102, 102, 102, 102, 102};
  for (const int32_t tokens : {993, 1024})
    EXPECT_EQ(expected, tokens_kept(schedule, gpt2, tokens, 0));
  // A short text has no more than it has.
  EXPECT_EQ(150, tokens_kept(schedule, gpt2, 150, 0)[5]);
  EXPECT_EQ(102, tokens_kept(schedule, gpt2, 150, 0)[6]);
}

TEST(PruningSchedule, CountsSharesMinimumAndProtectedTokens) {
  const ScheduledModel model{.layers = 4, .positions = 512, .vocabulary = 100};
  const PruningSchedule schedule =
      parsed(R"({"tokens": [1, 0.29, 0.29, 0.01], "minimum": 3})", model);
  EXPECT_EQ((std::vector<int32_t>{100, 29, 29, 3}), tokens_kept(schedule, model, 100, 1));
  EXPECT_EQ((std::vector<int32_t>{100, 29, 29, 5}), tokens_kept(schedule, model, 100, 5));
  EXPECT_EQ((std::vector<int32_t>{2, 2, 2, 2}), tokens_kept(schedule, model, 2, 0));
  EXPECT_EQ((std::vector<int32_t>{1, 1, 1, 1}), tokens_kept(schedule, model, 1, 0));
  const PruningSchedule counts = parsed(R"({"tokens": [512, 64, 64, 8]})", model);
  EXPECT_EQ((std::vector<int32_t>{100, 64, 64, 8}), tokens_kept(counts, model, 100, 0));
}

TEST(PruningSchedule, IsReadAsItWasWritten) {
  const ScheduledModel model{.layers = 3, .positions = 64, .vocabulary = 100};
  const std::string text =
      R"({"tokens": [1, 0.35, 0.1], "base": "positions", "minimum": 2, "decay": 0.5, "scale": "queries", )"
      R"("pooling": "survivors", "protect": {"first": 1, "last": 2, "ids": [7, 99]}})";
  EXPECT_EQ(text, to_json(parsed(text, model)));
  EXPECT_EQ(text, to_json(parsed(to_json(parsed(text, model)), model)));
}

TEST(PruningSchedule, BadOnesAreRefusedInASentence) {
  const ScheduledModel model{.layers = 2, .positions = 64, .vocabulary = 100};
  const std::string share = "expected a share above 0 and up to 1, or a count from 2 on, found ";
  expect_refused(R"({"tokens": [1, 0]})", "tokens[1]: " + share + "0", model);
  expect_refused(R"({"tokens": [1, 1.5]})", "tokens[1]: " + share + "1.5", model);
  expect_refused(R"({"tokens": [1, -0.5]})", "tokens[1]: " + share + "-0.5", model);
  expect_refused(R"({"tokens": [1, "x"]})", "tokens[1]: " + share + "\"x\"", model);
  expect_refused(R"({"tokens": [0.5, 0.6]})",
                 "tokens[1]: expected no more than the layer before keeps, as what left does not "
                 "return, found 0.6",
                 model);
  expect_refused(R"({"tokens": [1]})", "tokens: expected a share for each of the 2 layers, found 1",
                 model);
  expect_refused(
      R"({"tokens": 0})",
      "tokens: expected an average share above 0 and up to 1, or a list of shares, found 0", model);
  expect_refused(R"({"tokens": 0.1})",
                 "tokens: expected an average share of at least 0.21 for 12 layers, found 0.1");
  expect_refused(R"({"tokens": 1, "protect": {"ids": [100]}})",
                 "protect.ids[0]: expected an integer from 0 to 99, found 100", model);
  expect_refused(R"({"tokens": 1, "protect": {"first": 65}})",
                 "protect.first: expected an integer from 0 to 64, found 65", model);
  expect_refused(R"({"tokens": 1, "decay": 0})",
                 "decay: expected a number from 1e-06 to 1, found 0", model);
  EXPECT_FALSE(parse_schedule(R"({"tokens": NaN})", model, "s").ok());
  EXPECT_FALSE(parse_schedule(R"({"tokens": 1, "token": 1})", model, "s").ok());
  EXPECT_FALSE(parse_schedule("{}", model, "s").ok());
  EXPECT_FALSE(parse_schedule("[]", model, "s").ok());
}

}  // namespace
}  // namespace tessera
