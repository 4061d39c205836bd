#include "tune/beginning.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "io/checkpoint.h"
#include "io/mapped_file.h"
#include "io/testing.h"
#include "tessera/model.h"

namespace tessera {
namespace {

using Json = nlohmann::json;

class BeginningTest : public ::testing::Test {
 protected:
  // A model without weights.
  ModelDirectory source(const Json& config) const {
    const std::string directory = folder_.path().string() + "/source";
    std::filesystem::create_directory(directory);
    EXPECT_TRUE(write_file_atomically(directory + "/config.json", config.dump()).ok());
    return {directory, directory};
  }
  std::string target(const std::string& name) const {
    const std::string directory = folder_.path().string() + "/" + name;
    std::filesystem::create_directory(directory);
    return directory;
  }
  testing::TempDir folder_;
};

const Json kBert = {{"model_type", "bert"},   {"architectures", {"BertModel"}},
                    {"hidden_size", 32},      {"intermediate_size", 64},
                    {"num_hidden_layers", 2}, {"num_attention_heads", 4},
                    {"vocab_size", 100},      {"max_position_embeddings", 64},
                    {"type_vocab_size", 2},   {"initializer_range", 0.05}};
const Json kGpt2 = {{"model_type", "gpt2"}, {"architectures", {"GPT2LMHeadModel"}},
                    {"n_embd", 32},         {"n_layer", 8},
                    {"n_head", 4},          {"n_positions", 64},
                    {"vocab_size", 100}};
const Json kLlama = {{"model_type", "llama"},
                     {"architectures", {"LlamaForCausalLM"}},
                     {"hidden_size", 32},
                     {"intermediate_size", 64},
                     {"num_hidden_layers", 2},
                     {"num_attention_heads", 4},
                     {"num_key_value_heads", 2},
                     {"vocab_size", 100},
                     {"max_position_embeddings", 64},
                     {"tie_word_embeddings", false}};

double deviation_of(const Checkpoint& checkpoint, const std::string& name) {
  const auto view = checkpoint.any_tensor(name);
  EXPECT_TRUE(view.ok()) << view.status().message();
  if (!view.ok()) return 0;
  double sum = 0;
  const auto* values = static_cast<const float*>(view->data);
  const auto numbers = static_cast<int64_t>(view->size_bytes / sizeof(float));
  for (int64_t i = 0; i < numbers; ++i) sum += double{values[i]} * values[i];
  return std::sqrt(sum / static_cast<double>(numbers));
}

TEST_F(BeginningTest, RandomModelsOfEveryKindLoadAndRun) {
  for (const Json& config : {kBert, kGpt2, kLlama}) {
    const std::string type = config["model_type"];
    const std::string directory = target(type);
    const auto drawn = write_beginning(source(config), {.is_random = true}, 1, directory);
    ASSERT_TRUE(drawn.ok()) << drawn.status().message();
    const auto model = Model::load(directory, {.threads = 1});
    ASSERT_TRUE(model.ok()) << model.status().message();
    EXPECT_GT(*drawn, 10000);
    const auto result = (*model)->forward({{.ids = {1, 2, 3}}});
    ASSERT_TRUE(result.ok()) << result.status().message();
  }
}

// Means of squares of so many draws stray by sqrt(2 / n) of themselves, so roots by half of that.
TEST_F(BeginningTest, WeightsHaveTheSpreadThatTheConfigSays) {
  ASSERT_TRUE(write_beginning(source(kBert), {.is_random = true}, 1, target("bert")).ok());
  const auto bert = Checkpoint::open(folder_.path().string() + "/bert");
  ASSERT_TRUE(bert.ok()) << bert.status().message();
  const double stray = 5 * 0.5 * std::sqrt(2.0 / (64 * 32));
  EXPECT_NEAR(deviation_of(*bert, "bert.encoder.layer.1.intermediate.dense.weight"), 0.05,
              0.05 * stray);
  EXPECT_EQ(deviation_of(*bert, "bert.encoder.layer.1.intermediate.dense.bias"), 0);
  EXPECT_EQ(deviation_of(*bert, "bert.encoder.layer.1.output.LayerNorm.weight"), 1);
  ASSERT_TRUE(write_beginning(source(kGpt2), {.is_random = true}, 1, target("gpt2")).ok());
  const auto gpt2 = Checkpoint::open(folder_.path().string() + "/gpt2");
  ASSERT_TRUE(gpt2.ok()) << gpt2.status().message();
  EXPECT_NEAR(deviation_of(*gpt2, "transformer.h.1.mlp.c_proj.weight"), 0.02 / 4, 0.02 / 4 * stray);
  EXPECT_NEAR(deviation_of(*gpt2, "transformer.h.1.mlp.c_fc.weight"), 0.02, 0.02 * stray);
  EXPECT_FALSE(gpt2->has("lm_head.weight"));
}

TEST_F(BeginningTest, EqualSeedsDrawEqualWeights) {
  for (const auto& [name, seed] : {std::pair("a", 1), std::pair("b", 1), std::pair("c", 2)}) {
    ASSERT_TRUE(write_beginning(source(kLlama), {.is_random = true}, static_cast<uint64_t>(seed),
                                target(name))
                    .ok());
  }
  const auto bytes = [&](const char* name) {
    return testing::content_of(folder_.path().string() + "/" + name + "/model.safetensors");
  };
  EXPECT_EQ(bytes("a"), bytes("b"));
  EXPECT_NE(bytes("a"), bytes("c"));
}

TEST_F(BeginningTest, AHeadReplacesNoneOrAnother) {
  const std::string base = target("base");
  ASSERT_TRUE(write_beginning(source(kBert), {.is_random = true}, 1, base).ok());
  const std::string classifier = target("classifier"), masked = target("masked");
  const auto drawn = write_beginning(
      {base, base}, {.head = Head::kSequenceClassification, .labels = {"bad", "good", "so so"}}, 1,
      classifier);
  ASSERT_TRUE(drawn.ok()) << drawn.status().message();
  // The base has no pooler: weight and bias of that, and of the classifier.
  EXPECT_EQ(*drawn, 32 * 32 + 32 + 3 * 32 + 3);
  const auto model = Model::load(classifier, {.threads = 1});
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ((*model)->info().labels, (std::vector<std::string>{"bad", "good", "so so"}));
  const auto other =
      write_beginning({classifier, classifier}, {.head = Head::kMaskedLm}, 1, masked);
  ASSERT_TRUE(other.ok()) << other.status().message();
  const auto checkpoint = Checkpoint::open(masked);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_FALSE(checkpoint->has("classifier.weight"));
  EXPECT_TRUE(checkpoint->has("cls.predictions.transform.dense.weight"));
  EXPECT_FALSE(checkpoint->config().contains("id2label"));
}

TEST_F(BeginningTest, AFamilyWithoutSuchAHeadSaysSo) {
  const auto drawn = write_beginning(source(kLlama), {.is_random = true, .head = Head::kMaskedLm},
                                     1, target("no"));
  ASSERT_FALSE(drawn.ok());
  EXPECT_NE(drawn.status().message().find("LlamaForMaskedLM"), std::string::npos)
      << drawn.status().message();
}

}  // namespace
}  // namespace tessera
