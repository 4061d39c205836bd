#include "io/testing.h"
#include "model/record_testing.h"

namespace tessera {
namespace {

using testing::base;
using testing::kSettings;
using testing::largest;
using testing::RandomModel;
using testing::Setting;

class RecordSetting : public ::testing::TestWithParam<Setting> {};

// Whole models agree with their references within 1e-4 of the largest logit.
TEST_P(RecordSetting, IsWhatItSays) {
  Architecture architecture = base();
  GetParam().set(architecture);
  ASSERT_TRUE(check(architecture, "here").ok());
  const RandomModel model(architecture);
  const std::vector<double> expected = model.reference();
  const double scale = largest(expected);
  double change = 0;
  const std::vector<double> without = RandomModel(base()).reference();
  for (size_t i = 0; i < expected.size(); ++i)
    change = std::max(change, std::abs(expected[i] - without[i]));
  EXPECT_GT(change, 1e-2 * scale) << "the setting does nothing";
  for (const Dealing dealing : {Dealing::kOwn, Dealing::kShared}) {
    for (const int threads : {1, 3}) {
      const auto result = model.run(dealing, threads);
      ASSERT_TRUE(result.ok()) << result.status().message();
      const std::vector<float>& found = result->logits;
      ASSERT_EQ(found.size(), expected.size());
      double difference = 0;
      for (size_t i = 0; i < found.size(); ++i)
        difference = std::max(difference, std::abs(found[i] - expected[i]));
      EXPECT_LE(difference, 1e-4 * scale)
          << threads << " threads, " << (dealing == Dealing::kOwn ? "own" : "shared") << " rows";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, RecordSetting, ::testing::ValuesIn(kSettings),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Record, WhatExecutionLacksIsRefusedByName) {
  const std::pair<const char*, std::function<void(Architecture&)>> lacking[] = {
      {"a projection of embeddings", [](Architecture& a) { a.embedding_size = 12; }},
      {"a cap of attention scores", [](Architecture& a) { a.layers[1].score_cap = 50; }},
      {"biases of attention scores",
       [](Architecture& a) { a.layers[1].score_bias = ScoreBias::kAlibi; }},
      {"attention windows on both sides",
       [](Architecture& a) {
         a.mask = Mask::kNone;
         a.layers[1].window = 8;
       }},
      {"cross-attention",
       [](Architecture& a) { a.layers[1].cross_attention = CrossAttention::kAfterAttention; }},
  };
  ASSERT_TRUE(check(base(), "config.json").ok());
  for (const auto& [what, set] : lacking) {
    Architecture architecture = base();
    set(architecture);
    const Status status = check(architecture, "config.json");
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    testing::expect_message(status, {"config.json", what});
  }
}

}  // namespace
}  // namespace tessera
