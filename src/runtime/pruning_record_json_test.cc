#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "tessera/model.h"
#include "tessera/pruning.h"

namespace tessera {
namespace {

TEST(PruningRecordJson, LeavesOutWhatDoesNotApply) {
  EXPECT_EQ(to_json(PruningRecord{.sequence = 3, .step = 2, .layer = 1, .length = 9, .queries = 1}),
            R"({"sequence":3,"step":2,"layer":1,"length":9,"queries":1})");
}

TEST(PruningRecordJson, HasListsAndNoNumbersThatJsonLacks) {
  const std::vector<int32_t> ids = {101, 7, 102}, tokens = {0, 2}, heads = {1};
  const std::vector<float> importance = {0.5f, std::numeric_limits<float>::quiet_NaN()};
  const std::vector<float> magnitudes = {0.1f};
  EXPECT_EQ(to_json(PruningRecord{.length = 3,
                                  .queries = 2,
                                  .ids = ids,
                                  .tokens = tokens,
                                  .importance = importance,
                                  .heads = heads,
                                  .head_importance = magnitudes}),
            R"({"sequence":0,"step":0,"layer":0,"length":3,"queries":2,"ids":[101,7,102],)"
            R"("tokens":[0,2],"importance":[0.5,null],"heads":[1],"head_importance":[0.1]})");
}

TEST(PruningRecordJson, SaysWhatWasRead) {
  const CacheReadProfile reads = {.tokens = 1,
                                  .queries = 2,
                                  .refetched = 3,
                                  .key_numbers = 4,
                                  .key_bits = 5,
                                  .value_numbers = 6,
                                  .value_bits = 7,
                                  .bytes = 8};
  EXPECT_EQ(to_json(PruningRecord{.step = 1, .length = 9, .queries = 1, .reads = &reads}),
            R"({"sequence":0,"step":1,"layer":0,"length":9,"queries":1,"reads":{"queries":2,)"
            R"("refetched":3,"key_numbers":4,"key_bits":5,"value_numbers":6,"value_bits":7,)"
            R"("bytes":8}})");
}

}  // namespace
}  // namespace tessera
