#include "tessera/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>

#include "kernels/family.h"
#include "runtime/model_state.h"
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
  EXPECT_CONTAINS(with_plan("{"), "plan.json");
  EXPECT_CONTAINS(with_plan(R"({"version": 9, "threads": 1, "layers": []})"), "version");
  EXPECT_CONTAINS(with_plan(R"({"version": 1, "threads": 1, "layers": []})"),
                  "layers: expected a list, found []");
  EXPECT_CONTAINS(with_plan(R"({"version": 1, "threads": 1, "layers":
      [{"first": 0, "last": 1, "attention": [{"method": "magic"}]}]})"),
                  "magic");
  EXPECT_CONTAINS(with_plan(R"({"version": 1, "threads": 1, "layers":
      [{"first": 1, "last": 1, "attention": [{"method": "flash"}]}]})"),
                  "starts at layer 0");
}

TEST(LoadErrors, PlansOfTheWrongShape) {
  const std::string folder = tiny_llama().write("plan_shapes");
  const auto with_plan = [&](const std::string& plan) {
    return load_error(folder, {.threads = 1, .plan_file = write_text(folder, "plan.json", plan)});
  };
  EXPECT_CONTAINS(with_plan("[]"), "version: expected an integer");
  EXPECT_CONTAINS(with_plan(R"({"version": 18446744073709551615})"), "found 18446744073709551615");
  EXPECT_CONTAINS(with_plan(R"({"version": 1, "threads": 1, "layers": [5]})"),
                  "first: expected an integer");
  EXPECT_CONTAINS(
      with_plan(R"({"version": 1, "threads": 1, "layers": [{"first": 0, "last": 1, "attention":
      [{"method": "flash", "up_to_keys": 9}, {"method": "flash", "up_to_keys": 9}, {"method": "flash"}]}]})"),
      "up_to_keys: expected an integer from 10");
  // Deep enough to exhaust the stack of a reader that recurses.
  EXPECT_CONTAINS(
      with_plan("{\"version\": " + std::string(400000, '[') + std::string(400000, ']') + "}"),
      "deep");
  const std::string plan =
      write_text(folder, "good.json", Model::load(folder, {.threads = 1}).value()->plan_json());
  EXPECT_CONTAINS(
      load_error(folder, {.threads = 1, .weights = WeightType::kF32, .plan_file = plan}),
      "found both");
}

TEST(LoadErrors, WidthsThatOverflow) {
  EXPECT_CONTAINS(load_error(tiny_llama()
                                 .with("num_attention_heads\": 4, \"num_key_value_heads\": 2",
                                       "num_attention_heads\": 16777216, \"head_dim\": 256")
                                 .write("widths")),
                  "16777216 x 256");
}

TEST(LoadErrors, PartialRotation) {
  for (const char* share : {"0.5", "1e300", "-1"}) {
    EXPECT_CONTAINS(
        load_error(tiny_llama()
                       .with("\"rms_norm_eps\"", std::string("\"partial_rotary_factor\": ") +
                                                     share + ", \"rms_norm_eps\"")
                       .write("rotation")),
        "partial_rotary_factor");
  }
}

TEST(LoadErrors, HeadsThatAFamilyLacks) {
  EXPECT_CONTAINS(
      load_error(tiny_bert().with("BertForMaskedLM", "BertLMHeadModel").write("lm_head")),
      "no such head for bert");
  EXPECT_CONTAINS(
      load_error(
          tiny_llama().with("LlamaForCausalLM", "GPT2DoubleHeadsModel").write("double_heads")),
      "GPT2DoubleHeadsModel");
}

TEST(LoadErrors, UnknownNamesInTheEnvironment) {
  const std::string folder = tiny_llama().write("environment");
  setenv("TESSERA_ISA", "avx51", 1);
  EXPECT_CONTAINS(load_error(folder), "avx51");
  unsetenv("TESSERA_ISA");
  force_kernel("nrm:avx2");
  EXPECT_CONTAINS(load_error(folder), "nrm:avx2");
  force_kernel("norm:ref");
  EXPECT_TRUE(Model::load(folder, {.threads = 1}).ok());
  force_kernel("");
}

// transformers takes 4096 where the key is absent, no window where it is null.
TEST(Families, MistralWindowByDefault) {
  const auto windows = [](const std::string& name, const std::string& setting) {
    const auto model = Model::load(tiny_llama()
                                       .with("\"llama\"", "\"mistral\"")
                                       .with("\"rms_norm_eps\"", setting + "\"rms_norm_eps\"")
                                       .write(name),
                                   {.threads = 1});
    EXPECT_TRUE(model.ok()) << model.status().message();
    return state_of(**model).architecture.windows;
  };
  EXPECT_EQ(windows("absent", ""), (std::vector<int32_t>{4096, 4096}));
  EXPECT_EQ(windows("null", "\"sliding_window\": null, "), (std::vector<int32_t>{0, 0}));
  EXPECT_EQ(windows("seven", "\"sliding_window\": 7, "), (std::vector<int32_t>{7, 7}));
}

// A head that reads the last token passes over padding at the end.
TEST(Families, DecoderClassifierReadsTheLastRealToken) {
  TinyCheckpoint tiny = tiny_llama().with("LlamaForCausalLM", "LlamaForSequenceClassification");
  tiny.with("\"eos_token_id\": 49", "\"eos_token_id\": 49, \"pad_token_id\": 0");
  tiny.shapes.erase("lm_head.weight");
  tiny.shapes["score.weight"] = {2, 16};
  const auto model = Model::load(tiny.write("score"), {.threads = 1});
  ASSERT_TRUE(model.ok()) << model.status().message();
  const auto plain = (*model)->forward({{{5, 6, 7}, {}}}),
             padded = (*model)->forward({{{5, 6, 7, 0, 0}, {}}});
  ASSERT_TRUE(plain.ok() && padded.ok());
  ASSERT_EQ(padded->logits.size(), 2u);
  for (size_t i = 0; i < 2; ++i) EXPECT_NEAR(plain->logits[i], padded->logits[i], 1e-5);
}

// A tied head uses a weight of its own where the checkpoint holds one.
TEST(Families, TiedHeadPrefersItsOwnWeight) {
  TinyCheckpoint tiny = tiny_llama();
  const auto untied = Model::load(tiny.write("untied"), {.threads = 1});
  const auto tied = Model::load(
      tiny.with("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true").write("tied"),
      {.threads = 1});
  ASSERT_TRUE(untied.ok() && tied.ok());
  EXPECT_EQ((*untied)->forward({{{1, 2}, {}}})->logits, (*tied)->forward({{{1, 2}, {}}})->logits);
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

TEST(Model, TellsWhatGenerationConfigRecommends) {
  const std::string folder = tiny_llama().write("generation_config");
  const auto load = [&](const std::string& text) {
    std::ofstream(folder + "/generation_config.json") << text;
    return Model::load(folder, {.threads = 1});
  };
  const auto full = load(R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95,
      "min_p": 0.05, "repetition_penalty": 1.1, "max_new_tokens": 64, "eos_token_id": [1, 2]})");
  ASSERT_TRUE(full.ok()) << full.status().message();
  const GenerationDefaults& found = (*full)->info().generation;
  EXPECT_EQ(found.do_sample, true);
  EXPECT_EQ(found.temperature, 0.6f);
  EXPECT_EQ(found.top_k, 20);
  EXPECT_EQ(found.top_p, 0.95f);
  EXPECT_EQ(found.min_p, 0.05f);
  EXPECT_EQ(found.repetition_penalty, 1.1f);
  EXPECT_EQ(found.max_new_tokens, 64);
  const auto empty = load(R"({"temperature": null})");
  ASSERT_TRUE(empty.ok()) << empty.status().message();
  EXPECT_FALSE((*empty)->info().generation.temperature.has_value());
  EXPECT_FALSE((*empty)->info().generation.do_sample.has_value());
  for (const char* bad : {R"({"temperature": "hot"})", R"({"do_sample": 1})",
                          R"({"top_k": 9007199254740993})", R"({"max_new_tokens": 1.5})"}) {
    const auto refused = load(bad);
    ASSERT_FALSE(refused.ok()) << bad;
    EXPECT_NE(refused.status().message().find("generation_config.json: "), std::string::npos)
        << refused.status().message();
  }
}

}  // namespace
}  // namespace tessera
