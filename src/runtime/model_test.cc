#include "tessera/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "runtime/testing.h"

namespace tessera {
namespace {

using testing::tiny_bert;
using testing::tiny_llama;
using testing::TinyCheckpoint;

// The message of a load that must fail.
std::string load_error(const std::string& folder, const LoadOptions& options = {.threads = 1}) {
  const auto model = Model::load(folder, options);
  EXPECT_FALSE(model.ok());
  return model.ok() ? "" : model.status().message();
}

std::string write_text(const std::string& folder, const std::string& name,
                       const std::string& text) {
  std::ofstream(folder + "/" + name) << text;
  return folder + "/" + name;
}

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(LoadErrors, UnknownModelType) {
  const std::string error = load_error(tiny_llama().with("\"llama\"", "\"mamba\"").write("type"));
  EXPECT_CONTAINS(error, "model_type");
  EXPECT_CONTAINS(error, "mamba");
  EXPECT_CONTAINS(error, "llama");
}

TEST(LoadErrors, UnknownHead) {
  EXPECT_CONTAINS(load_error(tiny_bert().with("ForMaskedLM", "ForMultipleChoice").write("head")),
                  "BertForMultipleChoice");
}

TEST(LoadErrors, MissingTensor) {
  TinyCheckpoint tiny = tiny_llama();
  tiny.shapes.erase("model.layers.1.mlp.up_proj.weight");
  EXPECT_CONTAINS(load_error(tiny.write("missing")), "model.layers.1.mlp.up_proj.weight");
}

TEST(LoadErrors, WrongShapeNamesBothShapes) {
  TinyCheckpoint tiny = tiny_llama();
  tiny.shapes["model.layers.0.self_attn.k_proj.weight"] = {16, 16};
  const std::string error = load_error(tiny.write("shape"));
  EXPECT_CONTAINS(error, "model.layers.0.self_attn.k_proj.weight");
  EXPECT_CONTAINS(error, "[8, 16]");
  EXPECT_CONTAINS(error, "[16, 16]");
}

TEST(LoadErrors, HeadsThatDoNotDivide) {
  EXPECT_CONTAINS(
      load_error(
          tiny_llama().with("num_attention_heads\": 4", "num_attention_heads\": 3").write("heads")),
      "3 heads");
  EXPECT_CONTAINS(
      load_error(
          tiny_llama().with("num_key_value_heads\": 2", "num_key_value_heads\": 3").write("kv")),
      "found 3");
}

TEST(LoadErrors, AbsurdSizes) {
  EXPECT_CONTAINS(load_error(tiny_llama()
                                 .with("num_hidden_layers\": 2", "num_hidden_layers\": 1000000000")
                                 .write("layers")),
                  "1000000000");
  EXPECT_CONTAINS(
      load_error(tiny_llama().with("hidden_size\": 16", "hidden_size\": -1").write("negative")),
      "-1");
  EXPECT_CONTAINS(
      load_error(tiny_llama().with("hidden_size\": 16", "hidden_size\": \"wide\"").write("text")),
      "wide");
}

TEST(LoadErrors, UnsupportedSettings) {
  EXPECT_CONTAINS(
      load_error(
          tiny_llama()
              .with("\"rms_norm_eps\"",
                    "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}, \"rms_norm_eps\"")
              .write("yarn")),
      "yarn");
  EXPECT_CONTAINS(load_error(tiny_bert().with("\"gelu\"", "\"mish\"").write("mish")), "mish");
}

TEST(LoadErrors, Plans) {
  const std::string folder = tiny_llama().write("plans");
  const auto with_plan = [&](const std::string& plan) {
    return load_error(folder, {.threads = 1, .plan_file = write_text(folder, "plan.json", plan)});
  };
  EXPECT_CONTAINS(with_plan("{"), "expected a plan");
  EXPECT_CONTAINS(with_plan(R"({"version": 9, "threads": 1, "layers": []})"), "version");
  EXPECT_CONTAINS(with_plan(R"({"version": 1, "threads": 1, "layers": []})"),
                  "expected 2 layers, found 0");
  EXPECT_CONTAINS(with_plan(R"({"version": 1, "threads": 1, "layers":
      [{"first": 0, "last": 1, "attention": [{"method": "magic"}]}]})"),
                  "magic");
  EXPECT_CONTAINS(with_plan(R"({"version": 1, "threads": 1, "layers":
      [{"first": 1, "last": 1, "attention": [{"method": "flash"}]}]})"),
                  "starts at layer 0");
}

TEST(Plan, SurvivesSavingAndForces) {
  const std::string folder = tiny_llama().write("plan_kept");
  const auto model = Model::load(folder, {.threads = 1});
  ASSERT_TRUE(model.ok()) << model.status().message();
  const std::string path = write_text(folder, "plan.json", (*model)->plan_json());
  const auto again = Model::load(folder, {.threads = 1, .plan_file = path});
  ASSERT_TRUE(again.ok()) << again.status().message();
  const std::vector<TokenSequence> batch = {{{1, 2, 3}, {}}};
  EXPECT_EQ((*model)->forward(batch)->logits, (*again)->forward(batch)->logits);
}

TEST(Forward, RefusesBadInput) {
  const auto model = Model::load(tiny_bert().write("input"), {.threads = 1});
  ASSERT_TRUE(model.ok()) << model.status().message();
  const auto error = [&](TokenSequence sequence) {
    return (*model)->forward({sequence}).status().message();
  };
  EXPECT_CONTAINS(error({{1, 50}, {}}), "found 50 at token 1");
  EXPECT_CONTAINS(error({{-1}, {}}), "found -1");
  EXPECT_CONTAINS(error({{}, {}}), "found none");
  EXPECT_CONTAINS(error({{1}, {2}}), "type ids from 0 to 1, found 2");
  EXPECT_CONTAINS(error({{1, 2}, {0}}), "expected 2 type ids");
  EXPECT_CONTAINS(error({std::vector<int32_t>(41, 1), {}}),
                  "at most 40 tokens, the model's context, found 41");
}

TEST(Forward, EmptyBatchGivesNothing) {
  const auto model = Model::load(tiny_bert().write("empty"), {.threads = 1});
  ASSERT_TRUE(model.ok());
  const auto result = (*model)->forward({});
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_TRUE(result->logits.empty());
}

// A ragged batch gives each sequence what it gets alone; rows are computed alike wherever they
// stand, up to the grouping of rows in products.
TEST(Forward, BatchEqualsAlone) {
  const auto model = Model::load(tiny_bert().write("batch"), {.threads = 2});
  ASSERT_TRUE(model.ok());
  std::vector<TokenSequence> batch;
  for (int32_t length : {1, 7, 40, 3}) {
    TokenSequence sequence;
    for (int32_t i = 0; i < length; ++i) sequence.ids.push_back((7 * i + length) % 50);
    batch.push_back(sequence);
  }
  const auto together = (*model)->forward(batch);
  ASSERT_TRUE(together.ok());
  for (size_t s = 0; s < batch.size(); ++s) {
    const auto alone = (*model)->forward({batch[s]});
    const size_t first = static_cast<size_t>(together->offsets[s] * together->logits_width);
    for (size_t i = 0; i < alone->logits.size(); ++i) {
      ASSERT_NEAR(alone->logits[i], together->logits[first + i], 2e-5f * 20) << "sequence " << s;
    }
  }
}

TEST(Embed, IsNormalisedAndCountsWhatItCuts) {
  const auto model = Model::load(tiny_bert().write("embed"), {.threads = 1});
  ASSERT_TRUE(model.ok());
  int64_t truncated = 0;
  const auto vectors =
      (*model)->embed({{{1, 2, 3}, {}}, {std::vector<int32_t>(90, 4), {}}}, &truncated);
  ASSERT_TRUE(vectors.ok()) << vectors.status().message();
  EXPECT_EQ(truncated, 1);
  ASSERT_EQ(vectors->size(), 32u);
  double square = 0;
  for (size_t i = 0; i < 16; ++i) square += static_cast<double>((*vectors)[i]) * (*vectors)[i];
  EXPECT_NEAR(std::sqrt(square), 1, 1e-5);
}

TEST(Tokenize, WithoutTokenizerSaysSo) {
  const auto model = Model::load(tiny_bert().write("no_tokenizer"), {.threads = 1});
  ASSERT_TRUE(model.ok());
  EXPECT_EQ((*model)->tokenize("text").status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace tessera
