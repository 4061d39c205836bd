#include "model/loader.h"

#include <gtest/gtest.h>

#include "io/safetensors.h"
#include "io/testing.h"

namespace tessera {
namespace {

// Gemma stores w - 1.
TEST(Loader, AddsTheOffsetOfNormWeights) {
  const testing::TempDir folder;
  folder.put("config.json", "{}");
  const std::vector<float> first = {0.25f, -0.5f, 0}, query = {1, -1};
  ASSERT_TRUE(write_safetensors(folder / "model.safetensors",
                                {{"m.3.norm", DType::kF32, {3}, first.data()},
                                 {"m.3.query", DType::kF32, {2}, query.data()}})
                  .ok());
  const auto checkpoint = Checkpoint::open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  LayerRecord layer{
      .query_heads = 2, .kv_heads = 1, .head_size = 2, .qk_norm = QkNorm::kPerHead, .names = {}};
  layer.names.attention_norm.weight = "{}.norm";
  layer.names.query_norm.weight = "{}.query";
  Architecture architecture{.hidden_size = 3, .layers = std::vector<LayerRecord>(4, layer)};
  architecture.names.prefix = "m.";
  Team team(1);
  for (const float offset : {0.0f, 1.0f}) {
    architecture.norm_weight_offset = offset;
    const auto norms = load_layer_norms(*checkpoint, architecture, 3, team);
    ASSERT_TRUE(norms.ok()) << norms.status().message();
    EXPECT_EQ(norms->attention_norm.weight,
              (std::vector<float>{offset + 0.25f, offset - 0.5f, offset}));
    EXPECT_EQ(norms->query_norm.weight, (std::vector<float>{offset + 1, offset - 1}));
    EXPECT_TRUE(norms->ffn_norm.empty());
    EXPECT_EQ(norms->attention.qkv_width(), 8);
  }
  EXPECT_FALSE(load_layer_norms(*checkpoint, architecture, 2, team).ok());
}

}  // namespace
}  // namespace tessera
