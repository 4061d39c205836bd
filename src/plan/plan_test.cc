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
  PlanRequest request{.threads = 3, .layers = 2, .weights = DType::kBF16, .weights_why = "why"};
  const Plan plan = choose_plan(request);
  const auto read = plan_from_json(plan_to_json(plan), "test", 2);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->threads, 3);
  EXPECT_EQ(read->head_weights, DType::kBF16);
  ASSERT_EQ(read->layers.size(), 2u);
  EXPECT_EQ(method_at(*read, 1024), "on_the_fly");
  EXPECT_EQ(method_at(*read, 1025), "flash");
}

}  // namespace
}  // namespace tessera
