#include "pruning/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "pruning/presets.h"
#include "tessera/pruning.h"

namespace tessera {
namespace {

const ScheduledModel kBert{.layers = 12,
                           .query_heads = 12,
                           .positions = 512,
                           .vocabulary = 30522,
                           .named_ids = {{"cls", 101}, {"sep", 102}}};

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
  EXPECT_TRUE(parsed(R"({"tokens": 1})").keeps_all_tokens());
  for (const int32_t layers : {1, 2, 3, 6, 24}) {
    const auto keeps = average_keep(0.7, layers, kWholeLayersOfTokens);
    ASSERT_TRUE(keeps.ok());
    double sum = 0;
    for (const Keep& keep : *keeps) sum += keep.share;
    EXPECT_NEAR(0.7 * layers, sum, 1e-9) << layers;
  }
}

std::vector<int32_t> values_of_layers(const PruningSchedule& schedule, const ScheduledModel& model,
                                      int32_t tokens) {
  std::vector<int32_t> values;
  for (int32_t layer = 0; layer < model.layers; ++layer)
    values.push_back(values_kept(schedule, model, layer, tokens));
  return values;
}

// The traces of the published runs, at lengths of 993 to 1024: shares of 1024 positions.
TEST(PruningPresets, CountsOfGpt2Small) {
  const ScheduledModel gpt2{
      .layers = 12, .query_heads = 12, .positions = 1024, .vocabulary = 50257};
  const auto preset = find_schedule("spatten-gpt2-small");
  ASSERT_TRUE(preset.ok());
  const PruningSchedule schedule = parsed(preset->json, gpt2);
  const std::vector<int32_t> keys = {921, 716, 204, 204, 204, 204, 102, 102, 102, 102, 102, 102};
  const std::vector<int32_t> values = {184, 143, 40, 40, 40, 40, 20, 20, 20, 20, 20, 20};
  for (const int32_t tokens : {994, 1024}) {
    EXPECT_EQ(keys, tokens_kept(schedule, gpt2, tokens, 0));
    EXPECT_EQ(values, values_of_layers(schedule, gpt2, tokens));
  }
  EXPECT_TRUE(schedule.keeps_all_heads());
  EXPECT_EQ(6, schedule.planes.upper_bits);
  EXPECT_EQ(6, schedule.planes.value_bits);
  EXPECT_EQ(0.05, schedule.planes.refetch_below);
  EXPECT_EQ(Prefill::kSkip, schedule.prefill);
  // A short text has no more than it has.
  EXPECT_EQ(150, tokens_kept(schedule, gpt2, 150, 0)[5]);
  EXPECT_EQ(102, tokens_kept(schedule, gpt2, 150, 0)[6]);
}

TEST(PruningPresets, CountsOfGpt2Medium) {
  const ScheduledModel gpt2{
      .layers = 24, .query_heads = 16, .positions = 1024, .vocabulary = 50257};
  const auto preset = find_schedule("spatten-gpt2-medium");
  ASSERT_TRUE(preset.ok());
  const PruningSchedule schedule = parsed(preset->json, gpt2);
  std::vector<int32_t> keys = {998, 998, 921, 819, 819}, values = {307, 307, 276, 245, 245};
  keys.insert(keys.end(), 6, 614);
  values.insert(values.end(), 6, 184);
  keys.insert(keys.end(), 13, 307);
  values.insert(values.end(), 13, 92);
  std::vector<int32_t> heads(16, 16);
  heads.insert(heads.end(), 6, 13);
  heads.insert(heads.end(), 2, 10);
  EXPECT_EQ(keys, tokens_kept(schedule, gpt2, 998, 0));
  EXPECT_EQ(values, values_of_layers(schedule, gpt2, 998));
  EXPECT_EQ(heads, heads_kept(schedule, gpt2));
  EXPECT_GT(schedule.planes.refetch_below, 1);
}

TEST(PruningPresets, AnotherModelsGetASentence) {
  for (const PruningPreset& preset : pruning_presets()) {
    const auto found = find_schedule(preset.name);
    ASSERT_TRUE(found.ok());
    const auto schedule = parse_schedule(
        found->json, {.layers = 6, .query_heads = 12, .positions = 512}, found->source);
    ASSERT_FALSE(schedule.ok());
    EXPECT_TRUE(schedule.status().message().starts_with(
        preset.name + ": tokens: expected a share for each of the 6 layers, found "));
  }
  EXPECT_EQ(
      "pruning: expected a JSON object, spatten-gpt2-small, spatten-gpt2-medium, or none, found "
      "\"x\"",
      find_schedule("x").status().message());
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

TEST(PruningSchedule, ABudgetIsACountForEveryLayer) {
  const PruningSchedule schedule = parsed(R"({"tokens": 64, "base": "prompt"})");
  EXPECT_EQ(std::vector<int32_t>(12, 64), tokens_kept(schedule, kBert, 100, 0));
  EXPECT_EQ(std::vector<int32_t>(12, 50), tokens_kept(schedule, kBert, 50, 0));
}

// Otherwise what is new would leave before anything could have looked at it.
TEST(PruningSchedule, HalfOfABudgetIsTheNewestTokensUnlessItSaysHowMany) {
  EXPECT_EQ(32, parsed(R"({"tokens": 65})").protect_newest);
  EXPECT_EQ(kBert.positions, parsed(R"({"tokens": 10000})").protect_newest);
  EXPECT_EQ(32, parsed(R"({"tokens": 64, "protect": {"first": 1}})").protect_newest);
  EXPECT_EQ(0, parsed(R"({"tokens": 64, "protect": {"newest": 0}})").protect_newest);
  EXPECT_EQ(3, parsed(R"({"tokens": 64, "protect": {"newest": 3}})").protect_newest);
  const ScheduledModel two{.layers = 2, .positions = 512};
  EXPECT_EQ(0, parsed(R"({"tokens": [64, 64]})", two).protect_newest);
  for (const char* text : {R"({"tokens": 64})", R"({"tokens": 64, "protect": {"newest": 0}})"}) {
    const PruningSchedule schedule = parsed(text, two);
    EXPECT_EQ(schedule.protect_newest, parsed(to_json(schedule), two).protect_newest);
  }
}

TEST(PruningSchedule, SharesOfThePromptStayAsTextIsGenerated) {
  const ScheduledModel model{.layers = 2, .positions = 512, .vocabulary = 100};
  const PruningSchedule schedule = parsed(R"({"tokens": [0.5, 0.25], "base": "prompt"})", model);
  EXPECT_EQ((std::vector<int32_t>{50, 25}), tokens_kept(schedule, model, 140, 0, 100));
  EXPECT_EQ((std::vector<int32_t>{50, 25}), tokens_kept(schedule, model, 100, 0));
}

// 30% of the layers keep all their heads, and one head stays whatever the average is.
TEST(PruningSchedule, HeadsFallBehindLayersThatKeepAll) {
  const PruningSchedule schedule = parsed(R"({"heads": 0.5})");
  EXPECT_TRUE(schedule.keeps_all_tokens());
  EXPECT_FALSE(schedule.keeps_all_heads());
  // m = (0.5 * 12 - 4) / 8 = 0.25, from m + 0.2 to m - 0.2.
  EXPECT_EQ(1, schedule.heads[3].share);
  EXPECT_NEAR(0.45, schedule.heads[4].share, 1e-9);
  EXPECT_EQ((std::vector<int32_t>{12, 12, 12, 12, 5, 4, 4, 3, 2, 1, 1, 1}),
            heads_kept(schedule, kBert));
  EXPECT_EQ(to_json(schedule), to_json(parsed(to_json(schedule))));
  EXPECT_EQ(std::vector<int32_t>(12, 12), heads_kept(PruningSchedule(), kBert));
}

// What a layer would keep, were there enough, says how many values it reads.
TEST(PruningSchedule, ValuesAreOfTheKeysThatALayerKeeps) {
  const PruningSchedule schedule = parsed(R"({"tokens": 0.5, "values": 0.2})");
  EXPECT_EQ(20, values_kept(schedule, kBert, 0, 100));
  EXPECT_EQ(15, values_kept(schedule, kBert, 2, 100));
  EXPECT_EQ(1, values_kept(schedule, kBert, 11, 3));
  EXPECT_FALSE(schedule.keeps_all_values());
  EXPECT_EQ(7, values_kept(PruningSchedule(), kBert, 3, 7));
  const PruningSchedule threshold = parsed(R"({"values": {"threshold": 0.01}})");
  EXPECT_EQ(0.01, threshold.value_threshold);
  EXPECT_FALSE(threshold.keeps_all_values());
  EXPECT_EQ(7, values_kept(threshold, kBert, 3, 7));
}

TEST(PruningSchedule, BitsOfKeysAndWhenTheLowerOnesAreRead) {
  const KeyPlanes planes = parsed(R"({"key_bits": "6+4", "value_bits": 6})").planes;
  EXPECT_EQ(6, planes.upper_bits);
  EXPECT_EQ(4, planes.lower_bits);
  EXPECT_EQ(6, planes.value_bits);
  EXPECT_EQ(0.05, planes.refetch_below);
  const KeyPlanes scaled =
      parsed(R"({"key_bits": "8+4", "refetch": {"below": 8, "scale": "length"}})").planes;
  EXPECT_EQ(8, scaled.refetch_below);
  EXPECT_EQ(RefetchScale::kLength, scaled.refetch_scale);
  EXPECT_EQ(0, parsed(R"({"key_bits": 8})").planes.lower_bits);
  EXPECT_TRUE(parsed("{}").planes.empty());
}

TEST(PruningSchedule, SpecialTokensAreProtectedByTheirRoles) {
  EXPECT_EQ((std::vector<int32_t>{102, 7}),
            parsed(R"({"protect": {"ids": ["@sep", 7]}})").protect_ids);
  expect_refused(
      R"({"protect": {"ids": ["@eos"]}})",
      "protect.ids[0]: expected a token's id or one of \"@cls\", \"@sep\", found \"@eos\"");
  expect_refused(R"({"protect": {"ids": ["@sep"]}})",
                 "protect.ids[0]: expected a token's id, as the model's files name no special "
                 "tokens, found \"@sep\"",
                 {.layers = 2, .positions = 64, .vocabulary = 100});
}

TEST(PruningSchedule, IsReadAsItWasWritten) {
  const ScheduledModel model{.layers = 3, .query_heads = 8, .positions = 64, .vocabulary = 100};
  const char* texts[] = {
      "{}", R"({"tokens": [1, 64, 8], "values": {"threshold": 0.02}, "key_bits": "4"})",
      R"({"tokens": [1, 0.35, 0.1], "heads": [1, 0.5, 3], "values": [0.3, 1, 20], "key_bits": "8+4", )"
      R"("value_bits": 6, "refetch": {"below": 2, "scale": "length"}, "prefill": "score", )"
      R"("base": "positions", "minimum": 2, "decay": 0.5, "scale": "queries", "pooling": "survivors", )"
      R"("protect": {"first": 1, "last": 2, "newest": 3, "ids": [7, 99]}})"};
  for (const std::string text : texts) {
    EXPECT_EQ(text, to_json(parsed(text, model)));
    EXPECT_EQ(text, to_json(parsed(to_json(parsed(text, model)), model)));
  }
}

TEST(PruningSchedule, BadOnesAreRefusedInASentence) {
  const ScheduledModel model{.layers = 2, .query_heads = 8, .positions = 64, .vocabulary = 100};
  const std::string share = "expected a share above 0 and up to 1, or a count from 2 on, found ";
  const std::string grown =
      "expected no more than the layer before keeps, as what left does not return, found ";
  for (const std::string member : {"tokens", "heads"}) {
    const auto refused = [&](const std::string& list, const std::string& message) {
      expect_refused("{\"" + member + "\": " + list + "}", member + message, model);
    };
    refused("[1, 0]", "[1]: " + share + "0");
    refused("[1, 1.5]", "[1]: " + share + "1.5");
    refused("[1, -0.5]", "[1]: " + share + "-0.5");
    refused("[1, \"x\"]", "[1]: " + share + "\"x\"");
    refused("[0.5, 0.6]", "[1]: " + grown + "0.6");
    refused("[2, 3]", "[1]: " + grown + "3");
    refused("[1]", ": expected a share for each of the 2 layers, found 1");
    refused("[1, 1, 1]", ": expected a share for each of the 2 layers, found 3");
    refused("[]", ": expected a share for each of the 2 layers, found 0");
  }
  expect_refused(R"({"tokens": 0})",
                 "tokens: expected an average share above 0 and up to 1, a number of tokens from 2 "
                 "on, or a list of shares, found 0",
                 model);
  expect_refused(R"({"tokens": 0.1})",
                 "tokens: expected an average share of at least 0.21 for 12 layers, found 0.1");
  expect_refused(
      R"({"heads": 2})",
      "heads: expected an average share above 0 and up to 1, or a list of shares, found 2", model);
  expect_refused(R"({"heads": [1, 0.1]})",
                 "heads[1]: expected a share that leaves one of the 8 heads, found 0.1", model);
  expect_refused(R"({"heads": [9, 3]})",
                 "heads[0]: expected at most the 8 heads that the model has, found 9", model);
  expect_refused(R"({"heads": 0.5})",
                 "heads: expected a model whose layers have equally many heads, found one whose "
                 "layers differ",
                 {.layers = 2, .positions = 64, .vocabulary = 100});
  expect_refused(R"({"values": 0})",
                 "values: expected a share above 0 and up to 1, a count from 2 on, a list of them, "
                 "or {\"threshold\": T}, found 0",
                 model);
  expect_refused(R"({"values": {"threshold": 1.5}})",
                 "values.threshold: expected a number from 1e-06 to 1, found 1.5", model);
  expect_refused(R"({"key_bits": "7+4"})",
                 R"(key_bits: expected "8+4", "6+4", "8" or "4", found "7+4")", model);
  expect_refused(R"({"key_bits": 12})", R"(key_bits: expected "8+4", "6+4", "8" or "4", found 12)",
                 model);
  expect_refused(R"({"key_bits": "8", "value_bits": 5})", "value_bits: expected 4, 6 or 8, found 5",
                 model);
  expect_refused(R"({"value_bits": 8})", "value_bits: expected key_bits beside it, found none",
                 model);
  expect_refused(R"({"key_bits": "8", "refetch": {"below": 0.1}})",
                 "refetch: expected key_bits of two planes, as \"8+4\", beside it, found none",
                 model);
  expect_refused(R"({"prefill": "all"})", "prefill: expected prune, score or skip, found \"all\"",
                 model);
  expect_refused(R"({"tokens": 1, "protect": {"ids": [100]}})",
                 "protect.ids[0]: expected an integer from 0 to 99, found 100", model);
  expect_refused(R"({"tokens": 1, "protect": {"first": 65}})",
                 "protect.first: expected an integer from 0 to 64, found 65", model);
  expect_refused(R"({"tokens": 1, "protect": {"newest": -1}})",
                 "protect.newest: expected an integer from 0 to 64, found -1", model);
  expect_refused(R"({"tokens": 1, "decay": 0})",
                 "decay: expected a number from 1e-06 to 1, found 0", model);
  EXPECT_FALSE(parse_schedule(R"({"tokens": NaN})", model, "s").ok());
  EXPECT_FALSE(parse_schedule(R"({"tokens": 1, "token": 1})", model, "s").ok());
  EXPECT_FALSE(parse_schedule("[]", model, "s").ok());
}

}  // namespace
}  // namespace tessera
