#include "runtime/pruning_plan.h"

#include <gtest/gtest.h>

#include "runtime/testing.h"

namespace tessera {
namespace {

// Of a row of the tiny Llama in floating-point operations: queries, keys and values 2 * 16 * 32,
// the output 2 * 16 * 16, the FFN 2 * 16 * 48 + 2 * 24 * 16, and 2 * 16 for each key or value.
constexpr double kAttentionMaps = 1024 + 512, kFfn = 1536 + 768, kPerKey = 32;

const ModelState& llama() {
  static const std::shared_ptr<Model> model =
      *Model::load(testing::tiny_llama().write("plan_llama"));
  return state_of(*model);
}

TEST(PruningPlan, CountsWhatIsLeftOfEachLayer) {
  PruningSchedule schedule;
  schedule.tokens = {{.share = 1}, {.share = 0.5}};
  schedule.heads = {{.share = 1}, {.share = 0.5}};
  schedule.values = {{.share = 1}, {.share = 0.2}};
  schedule.planes = {.upper_bits = 6, .lower_bits = 4, .value_bits = 8};
  const PruningPlan plan = plan_pruning(llama(), schedule, 100);
  ASSERT_EQ(2u, plan.layers.size());
  EXPECT_EQ(100, plan.layers[0].tokens);
  EXPECT_EQ(50, plan.layers[1].tokens);
  EXPECT_EQ(2, plan.layers[1].heads);
  EXPECT_EQ(50, plan.layers[1].keys);
  EXPECT_EQ(10, plan.layers[1].values);
  // A causal row sees half of the keys on average.
  const double dense = 100 * (kFfn + kAttentionMaps + kPerKey * 100);
  const double pruned = 50 * (kFfn + 0.5 * (kAttentionMaps + kPerKey * 50));
  EXPECT_DOUBLE_EQ(1, plan.layers[0].work);
  EXPECT_DOUBLE_EQ(pruned / dense, plan.layers[1].work);
  EXPECT_DOUBLE_EQ((dense + pruned) / (2 * dense), plan.reading);
  const double all = kFfn + kAttentionMaps + kPerKey * 200;
  const double next = kFfn + 0.5 * (kAttentionMaps + kPerKey * (50 + 10));
  EXPECT_DOUBLE_EQ((all + next) / (2 * all), plan.generating);
  const double bits = 100 * (6 + 8) + 0.5 * (50 * 6 + 10 * 8);
  EXPECT_DOUBLE_EQ(bits / (2 * 200 * 32), plan.cache);
}

TEST(PruningPlan, ProtectedTokensMayBeAsManyAsAny) {
  PruningSchedule schedule;
  schedule.tokens = {{.share = 1}, {.share = 0.5}};
  schedule.protect_first = INT32_MAX;
  schedule.protect_last = INT32_MAX;
  EXPECT_EQ(100, plan_pruning(llama(), schedule, 100).layers[1].tokens);
}

TEST(PruningPlan, PromptsThatAreReadWholeAreWork) {
  PruningSchedule schedule;
  schedule.tokens = {{.share = 0.5}, {.share = 0.5}};
  schedule.prefill = Prefill::kScore;
  const PruningPlan plan = plan_pruning(llama(), schedule, 100);
  EXPECT_EQ(100, plan.layers[1].tokens);
  EXPECT_EQ(50, plan.layers[1].keys);
  EXPECT_DOUBLE_EQ(1, plan.reading);
  EXPECT_DOUBLE_EQ(0.5, plan.cache);
}

}  // namespace
}  // namespace tessera
