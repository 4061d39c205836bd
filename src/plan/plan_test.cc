#include "plan/plan.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

std::string method_at(const Plan& plan, int32_t keys) {
  return std::string(plan.attention(0, keys).name());
}

TEST(Plan, MeasuredCrossoversDecide) {
  PlanRequest request{.layers = 1, .head_size = 64};
  EXPECT_EQ(method_at(choose_plan(request), 1024), "on_the_fly");
  EXPECT_EQ(method_at(choose_plan(request), 1025), "flash");
  request.machine = MachineTable{.crossovers = {{64, 256}, {128, 4096}}};
  EXPECT_EQ(method_at(choose_plan(request), 256), "on_the_fly");
  EXPECT_EQ(method_at(choose_plan(request), 257), "flash");
  request.head_size = 80;  // the next larger one counts
  EXPECT_EQ(method_at(choose_plan(request), 4096), "on_the_fly");
  request.head_size = 256;  // none is larger: the largest
  EXPECT_EQ(method_at(choose_plan(request), 4097), "flash");
  request.machine->crossovers = {{64, 0}};  // never
  EXPECT_EQ(method_at(choose_plan(request), 1), "flash");
  EXPECT_EQ(choose_plan(request).layers[0].attention.size(), 1u);
}

TEST(Plan, IsReadAsItWasWritten) {
  PlanRequest request{.threads = 3, .layers = 2, .weights = Precision::kBF16, .weights_why = "why"};
  const Plan plan = choose_plan(request);
  const auto read = plan_from_json(plan_to_json(plan), "test", 2);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->threads, 3);
  EXPECT_EQ(read->head_weights, Precision::kBF16);
  ASSERT_EQ(read->layers.size(), 2u);
  EXPECT_EQ(method_at(*read, 1024), "on_the_fly");
  EXPECT_EQ(method_at(*read, 1025), "flash");
  EXPECT_EQ(read->layers[0].vo.method, VoMethod::kAuto);
}

TEST(Plan, MembersTakeRowsOfTheirOwnWhereEachHasEnough) {
  const LayerPlan layer{.own_rows_from = 10};
  EXPECT_EQ(layer.dealing(29, 3), Dealing::kShared);
  EXPECT_EQ(layer.dealing(30, 3), Dealing::kOwn);
  EXPECT_EQ(layer.dealing(0, 1), Dealing::kShared);
}

TEST(Plan, KeepsHowRowsAreDealtAndPrunedWeightsRun) {
  Plan plan = choose_plan({.layers = 2, .machine = MachineTable{.l2_bytes = 1 << 20}});
  EXPECT_EQ(plan.machine.l2_bytes, 1 << 20);
  EXPECT_EQ(plan.layers[0].group_bytes, 1 << 19) << "half of a core's second-level cache";
  plan.layers[0].own_rows_from = 7;
  plan.layers[0].group_bytes = 12345;
  plan.layers[1].form = FormRule::kDense;
  const auto read = plan_from_json(plan_to_json(plan), "test", 2);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->machine.l2_bytes, 1 << 20);
  EXPECT_EQ(read->layers[0].own_rows_from, 7);
  EXPECT_EQ(read->layers[0].group_bytes, 12345);
  EXPECT_EQ(read->layers[0].form, FormRule::kAuto);
  EXPECT_EQ(read->layers[1].own_rows_from, 32);
  EXPECT_EQ(read->layers[1].form, FormRule::kDense);
}

// As plans were before the keys were there.
TEST(Plan, OlderPlansAreDealtAsThisMachineWould) {
  const auto older = plan_from_json(
      R"({"version": 1, "threads": 2, "layers": [{"first": 0, "last": 0,
          "attention": [{"method": "flash"}]}]})",
      "test", 1);
  ASSERT_TRUE(older.ok()) << older.status().message();
  EXPECT_EQ(older->machine.l2_bytes, l2_bytes());
  EXPECT_EQ(older->layers[0].group_bytes, l2_bytes() / 2);
  EXPECT_EQ(older->layers[0].own_rows_from, 32);
  EXPECT_EQ(older->layers[0].form, FormRule::kAuto);
}

TEST(Plan, RefusesNonsenseOfHowRowsAreDealt) {
  const std::string text = plan_to_json(choose_plan({.layers = 1}));
  const auto message = [&](const std::string& key, const std::string& value) {
    const size_t at = text.find('"' + key + '"') + key.size() + 3;
    const size_t end = text.find_first_of(",}", at);
    return plan_from_json(text.substr(0, at) + value + text.substr(end), "test", 1)
        .status()
        .message();
  };
  EXPECT_EQ(message("own_rows_from", "0"),
            "test: own_rows_from: expected an integer from 1 to 2147483647, found 0");
  EXPECT_EQ(message("group_bytes", "-5"),
            "test: group_bytes: expected an integer from 1 to 2147483647, found -5");
  EXPECT_EQ(message("l2_bytes", "\"much\""),
            "test: l2_bytes: expected an integer from 65536 to 1073741824, found \"much\"");
  EXPECT_EQ(message("pruned_weights", "\"fast\""),
            "test: pruned_weights: expected auto, pruned or dense, found \"fast\"");
  EXPECT_EQ(message("pruned_weights", "\"dense\""), "");
}

TEST(Plan, KeepsTheTypeOfTheCache) {
  for (DType cache : {DType::kF32, DType::kBF16, DType::kI8}) {
    const std::string text = plan_to_json(choose_plan({.layers = 1, .cache = cache}));
    const auto read = plan_from_json(text, "test", 1);
    ASSERT_TRUE(read.ok()) << read.status().message();
    EXPECT_EQ(read->cache, cache);
  }
  std::string text = plan_to_json(choose_plan({.layers = 1, .cache = DType::kI8}));
  const auto refused = plan_from_json(text.replace(text.find("int8"), 4, "int2"), "test", 1);
  EXPECT_EQ(refused.status().message(), "test: cache: expected f32, bf16 or int8, found \"int2\"");
  // As plans were before there was a choice.
  const auto older =
      plan_from_json(text.replace(text.find("\"cache\""), 7, "\"other\""), "test", 1);
  ASSERT_TRUE(older.ok()) << older.status().message();
  EXPECT_EQ(older->cache, DType::kF32);
}

// What the matrices of a layer run as stands with it, though its choices are another's.
TEST(Plan, LayersThatHaveAllAlikeAreOneEntry) {
  const Plan plan = choose_plan({.layers = 3});
  const auto entries = [&](const std::vector<std::string>& linear) {
    const std::string text = plan_to_json(plan, linear);
    EXPECT_TRUE(plan_from_json(text, "test", 3).ok());
    size_t count = 0;
    for (size_t at = text.find("\"first\""); at != std::string::npos;
         at = text.find("\"first\"", at + 1))
      ++count;
    return count;
  };
  EXPECT_EQ(entries({}), 1u);
  EXPECT_EQ(entries({R"({"a": 1})", R"({"a": 1})", R"({"a": 1})"}), 1u);
  EXPECT_EQ(entries({R"({"a": 1})", R"({"a": 1})", R"({"a": 2})"}), 2u);
  EXPECT_EQ(entries({R"({"a": 1})", R"({"a": 2})", R"({"a": 1})"}), 3u);
}

TEST(Plan, KeepsHowValuesAreComputed) {
  Plan plan = choose_plan({.layers = 3, .expected_tokens = 77});
  plan.layers[0].vo = {VoMethod::kTwoStep, "why"};
  plan.layers[1].vo = {VoMethod::kPrecomputed, "why"};
  const std::string text = plan_to_json(plan);
  const auto read = plan_from_json(text, "test", 3);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->expected_tokens, 77);
  EXPECT_EQ(read->layers[0].vo.method, VoMethod::kTwoStep);
  EXPECT_EQ(read->layers[1].vo.method, VoMethod::kPrecomputed);
  EXPECT_EQ(read->layers[2].vo.method, VoMethod::kAuto);
  std::string wrong = text;
  wrong.replace(wrong.find("two_step"), 8, "one_step");
  const auto refused = plan_from_json(wrong, "test", 3);
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidInput);
  EXPECT_NE(refused.status().message().find("one_step"), std::string::npos);
}

// The values of docs/decisions/plan.md: BERT-base and a Transformer of 4 heads, 800 wide, 128
// tokens.
struct Crossover {
  int32_t heads;
  int64_t hidden_size;
};

VoProblem vo_problem(const Crossover& shape, int64_t features) {
  const auto d = static_cast<double>(shape.hidden_size);
  return {.tokens = 128,
          .query_heads = shape.heads,
          .kv_heads = shape.heads,
          .hidden_size = shape.hidden_size,
          .value_size = shape.hidden_size / shape.heads,
          .features = features,
          .two_step_flops = 2 * d * d + 2 * d * static_cast<double>(features)};
}

TEST(PrecomputeVo, PaysBelowTheCrossover) {
  for (const Crossover& shape : {Crossover{12, 768}, Crossover{4, 800}}) {
    const double d = static_cast<double>(shape.hidden_size), n = 128, heads = shape.heads;
    const double rho = (d + n) / (heads * (d + n) - d);
    const auto below = static_cast<int64_t>(rho * d);
    EXPECT_EQ(choose_vo(VoMethod::kAuto, vo_problem(shape, below)).method, VoMethod::kPrecomputed);
    EXPECT_EQ(choose_vo(VoMethod::kAuto, vo_problem(shape, below + 1)).method, VoMethod::kTwoStep);
  }
}

TEST(PrecomputeVo, IsForcedEitherWay) {
  EXPECT_EQ(choose_vo(VoMethod::kPrecomputed, vo_problem({12, 768}, 768)).method,
            VoMethod::kPrecomputed);
  EXPECT_EQ(choose_vo(VoMethod::kTwoStep, vo_problem({12, 768}, 1)).method, VoMethod::kTwoStep);
}

TEST(PrecomputeVo, NotWhereItRoundsOrTheCacheGrows) {
  VoProblem problem = vo_problem({4, 800}, 220);
  EXPECT_EQ(choose_vo(VoMethod::kAuto, problem).method, VoMethod::kPrecomputed);
  problem.mask = Mask::kCausal;
  EXPECT_EQ(choose_vo(VoMethod::kAuto, problem).method, VoMethod::kTwoStep);
  problem.features = 200;  // as many cached values as before
  EXPECT_EQ(choose_vo(VoMethod::kAuto, problem).method, VoMethod::kPrecomputed);
  problem.weights = Precision::kBF16;
  EXPECT_EQ(choose_vo(VoMethod::kAuto, problem).method, VoMethod::kTwoStep);
}

}  // namespace
}  // namespace tessera
