#include <gtest/gtest.h>

#include "compress/mask.h"
#include "compress/pass.h"

namespace tessera {
namespace {

Item item_of(Role role, int64_t outputs, int64_t inputs,
             MatrixOrder order = MatrixOrder::kOutputRows) {
  Item item;
  item.role = role;
  item.order = order;
  item.outputs = item.tensor_outputs = outputs;
  item.inputs = inputs;
  item.selected = true;
  return item;
}

TEST(Passes, EveryUnitHasOneThatSaysWhatItIs) {
  for (const PruneUnit unit : {PruneUnit::kTiles, PruneUnit::kElements, PruneUnit::kOutputs,
                               PruneUnit::kInputs, PruneUnit::kAttentionAware}) {
    const Pass& pass = find_pass(unit);
    EXPECT_EQ(pass.unit, unit);
    for (const char* text :
         {pass.info.name, pass.info.summary, pass.info.citation, pass.info.writes}) {
      EXPECT_GT(std::string(text).size(), 2u);
    }
  }
  EXPECT_EQ(passes().size(), 5u);
}

TEST(Passes, AttentionAwarePruningPicksTheRuleOfEachMatrix) {
  const Pass& pass = find_pass(PruneUnit::kAttentionAware);
  PruneOptions options;
  const auto removed = [&](Role role) { return pass.removed(item_of(role, 64, 64), options); };
  EXPECT_EQ(removed(Role::kQuery), Removed::kTiles);
  EXPECT_EQ(removed(Role::kKey), Removed::kTiles);
  EXPECT_EQ(removed(Role::kFfn), Removed::kTiles);
  EXPECT_EQ(removed(Role::kValue), Removed::kOutputsOfHeads);
  EXPECT_EQ(removed(Role::kAttentionOutput), Removed::kInputsOfValues);
  options.precompute_vo = PruneOptions::PrecomputeVo::kYes;
  EXPECT_EQ(removed(Role::kValue), Removed::kNothing);
  EXPECT_EQ(removed(Role::kAttentionOutput), Removed::kOutputs);
}

TEST(Passes, AnEstimateCountsWhatIsLeft) {
  PruneOptions options;
  options.share = 0.75;
  const Item item = item_of(Role::kFfn, 64, 128);
  const auto bytes = [&](PruneUnit unit, int64_t value_bytes) {
    return estimated_bytes(find_pass(unit), item, options, value_bytes);
  };
  EXPECT_EQ(bytes(PruneUnit::kTiles, 4), 8 * (256 * 4 + 2));  // 8 tiles of 32
  EXPECT_EQ(bytes(PruneUnit::kOutputs, 2), 16 * (128 * 2 + 2));
  options.share = 0;
  EXPECT_EQ(bytes(PruneUnit::kElements, 4), 64 * 128 * 4);  // indices would make it larger
}

TEST(Passes, TilesAreThoseOfTheMatrixAsItIsStored) {
  PruneOptions options;
  options.tile_rows = 8;
  options.tile_cols = 32;
  const Item stored_by_inputs = item_of(Role::kFfn, 64, 128, MatrixOrder::kInputRows);
  const TileShape tile = unit_tile(Removed::kTiles, stored_by_inputs, options);
  EXPECT_EQ(tile.rows, 32);  // of W, whose rows are outputs
  EXPECT_EQ(tile.cols, 8);
}

}  // namespace
}  // namespace tessera
