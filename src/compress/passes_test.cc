#include <gtest/gtest.h>

#include "compress/mask.h"
#include "compress/pass.h"
#include "compress/prune_units.h"
#include "compress/testing.h"

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

Passes passes_of(const CompressOptions& options) {
  auto passes = make_passes(options);
  EXPECT_TRUE(passes.ok()) << passes.status().message();
  return passes.ok() ? std::move(*passes) : Passes();
}

std::unique_ptr<Pass> prune_pass(PruneUnit unit, double share) {
  CompressOptions options;
  options.prune = PruneOptions{.unit = unit, .share = share};
  return std::move(passes_of(options).front());
}

std::unique_ptr<Pass> quantize_pass(WeightType weights) {
  CompressOptions options;
  options.quantize = QuantizeOptions{.weights = weights};
  return std::move(passes_of(options).front());
}

TEST(Passes, EveryUnitHasARuleThatSaysWhatItIs) {
  for (const PruneUnit unit : {PruneUnit::kTiles, PruneUnit::kElements, PruneUnit::kOutputs,
                               PruneUnit::kInputs, PruneUnit::kAttentionAware}) {
    EXPECT_EQ(find_rule(unit).unit, unit);
    const PassInfo info = prune_pass(unit, 0.5)->info();
    for (const char* text :
         {info.name, info.summary, info.citation, info.reads, info.writes, info.doing})
      EXPECT_GT(std::string(text).size(), 2u);
  }
  EXPECT_EQ(prune_rules().size(), 5u);
}

TEST(Passes, OptionsAskForThemAndTheTableOrdersThem) {
  EXPECT_TRUE(passes_of({}).empty());
  CompressOptions options;
  options.quantize = QuantizeOptions();
  options.prune = PruneOptions();
  const Passes both = passes_of(options);
  ASSERT_EQ(both.size(), 2u);
  EXPECT_STREQ(both[0]->info().name, "prune-tiles");
  EXPECT_STREQ(both[1]->info().name, "quantize");
}

TEST(Passes, AttentionAwarePruningPicksTheRuleOfEachMatrix) {
  const PruneRule& rule = find_rule(PruneUnit::kAttentionAware);
  PruneOptions options;
  const auto removed = [&](Role role) { return rule.removed(role, options); };
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
  const Item item = item_of(Role::kFfn, 64, 128);
  const auto bytes = [&](PruneUnit unit, double share, int64_t value_bytes) {
    return prune_pass(unit, share)->estimate(item, {.bytes = 64 * 128 * value_bytes}).bytes;
  };
  EXPECT_EQ(bytes(PruneUnit::kTiles, 0.75, 4), 8 * (256 * 4 + 2));  // 8 tiles of 32
  EXPECT_EQ(bytes(PruneUnit::kOutputs, 0.75, 2), 16 * (128 * 2 + 2));
  EXPECT_EQ(bytes(PruneUnit::kElements, 0, 4), 64 * 128 * 4);  // indices would make it larger
  const Estimate rounded =
      quantize_pass(WeightType::kInt8)->estimate(item, {.bytes = 64 * 128 * 4});
  EXPECT_EQ(rounded.bytes, 64 * 128 + 64 * 4);
  // Tiles stay about as they are.
  const Estimate pruned = prune_pass(PruneUnit::kTiles, 0.75)->estimate(item, {.bytes = 32768});
  EXPECT_EQ(quantize_pass(WeightType::kInt8)->estimate(item, pruned).bytes, pruned.bytes);
}

// A matrix of normally distributed weights loses at most what was estimated.
TEST(Passes, AnEstimateOfTheErrorHoldsForNormalWeights) {
  Team team(1);
  MapInputs inputs(nullptr);
  const SourceModel model;
  LayerOnTheWay layer;
  const auto error_of = [&](Pass& pass) {
    Matrix matrix;
    matrix.item = item_of(Role::kFfn, 64, 128);
    matrix.whole = matrix.pruned = testing::random_weight(64, 128, 5);
    EXPECT_TRUE(pass.apply({model, layer, {&matrix}, inputs, team}).ok());
    EXPECT_LE(matrix.weight_error(), pass.estimate(matrix.item, {.bytes = 32768}).weight_error);
    return matrix.weight_error();
  };
  for (const PruneUnit unit : {PruneUnit::kTiles, PruneUnit::kElements, PruneUnit::kOutputs}) {
    for (const double share : {0.25, 0.8}) EXPECT_GT(error_of(*prune_pass(unit, share)), 0);
  }
  for (const WeightType weights :
       {WeightType::kInt8, WeightType::kInt4, WeightType::kW8, WeightType::kW4})
    EXPECT_GT(error_of(*quantize_pass(weights)), 0);
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
