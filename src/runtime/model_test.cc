#include "tessera/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "runtime/loading_testing.h"
#include "runtime/model_state.h"
#include "runtime/testing.h"

namespace tessera {
namespace {

using testing::load_error;
using testing::regrouped_bound;
using testing::tiny_bert;
using testing::tiny_llama;
using testing::TinyCheckpoint;
using testing::write_text;

// transformers takes 4096 where the key is absent, no window where it is null.
TEST(Families, MistralWindowByDefault) {
  const auto windows = [](const std::string& name, const std::string& setting) {
    const auto model = Model::load(tiny_llama()
                                       .with("\"llama\"", "\"mistral\"")
                                       .with("\"rms_norm_eps\"", setting + "\"rms_norm_eps\"")
                                       .write(name),
                                   {.threads = 1});
    EXPECT_TRUE(model.ok()) << model.status().message();
    std::vector<int32_t> found;
    for (const LayerRecord& layer : state_of(**model).architecture.layers)
      found.push_back(layer.window);
    return found;
  };
  EXPECT_EQ(windows("absent", ""), (std::vector<int32_t>{4096, 4096}));
  EXPECT_EQ(windows("null", "\"sliding_window\": null, "), (std::vector<int32_t>{0, 0}));
  EXPECT_EQ(windows("seven", "\"sliding_window\": 7, "), (std::vector<int32_t>{7, 7}));
}

// So many rows that the members of a team take whole layers of rows of their own, in memory of
// their own: with rows rounded by whoever reads them, too little memory was shared by all.
TEST(Families, AnyTeamGivesTheSame) {
  TinyCheckpoint tiny = tiny_llama();
  tiny.with("\"hidden_size\": 16", "\"hidden_size\": 256");
  tiny.with("\"intermediate_size\": 24", "\"intermediate_size\": 384");
  for (auto& [name, shape] : tiny.shapes) {
    for (int64_t& extent : shape) extent *= extent == 50 ? 1 : 16;
  }
  const std::string folder = tiny.write("wide");
  for (const WeightType type :
       {WeightType::kF32, WeightType::kInt8, WeightType::kInt4, WeightType::kW8, WeightType::kW4}) {
    std::vector<std::shared_ptr<Model>> models;
    for (const int threads : {1, 2, 3}) {
      auto model = Model::load(folder, {.threads = threads, .weights = type});
      ASSERT_TRUE(model.ok()) << model.status().message();
      models.push_back(*model);
    }
    for (const int32_t length : {30, 64, 80, 100, 126, 200}) {
      TokenSequence text;
      for (int32_t i = 0; i < length; ++i) text.ids.push_back((i * i + 3) % 50);
      const auto alone = models[0]->forward({text});
      ASSERT_TRUE(alone.ok()) << alone.status().message();
      for (size_t i = 1; i < models.size(); ++i) {
        const auto together = models[i]->forward({text});
        ASSERT_TRUE(together.ok());
        EXPECT_EQ(together->logits, alone->logits)
            << i + 1 << " threads, " << length << " tokens, type " << static_cast<int>(type);
      }
    }
  }
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
  for (size_t i = 0; i < 2; ++i)
    EXPECT_NEAR(plain->logits[i], padded->logits[i], regrouped_bound(5, plain->logits));
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

// A table and a head large enough to be rounded piece by piece, whose last piece is a short one.
TEST(Families, LargeTablesAreRoundedWhole) {
  constexpr int64_t kVocabulary = 300'001, kWidth = 16;
  for (const char* tied : {"false", "true"}) {
    TinyCheckpoint tiny = tiny_llama();
    tiny.with("\"vocab_size\": 50", "\"vocab_size\": 300001");
    tiny.with("\"tie_word_embeddings\": false", std::string("\"tie_word_embeddings\": ") + tied);
    tiny.shapes["model.embed_tokens.weight"] = {kVocabulary, kWidth};
    if (std::string(tied) == "true") {
      tiny.shapes.erase("lm_head.weight");
    } else {
      tiny.shapes["lm_head.weight"] = {kVocabulary, kWidth};
    }
    const std::string folder = tiny.write(std::string("large_tables_") + tied);
    const auto exact = Model::load(folder, {.threads = 2, .weights = WeightType::kF32});
    const auto rounded = Model::load(folder, {.threads = 2, .weights = WeightType::kW8});
    ASSERT_TRUE(exact.ok() && rounded.ok());
    const std::vector<TokenSequence> batch = {{{0, 65'536, 65'537, 300'000}, {}}};
    const std::vector<float> expected = (*exact)->forward(batch)->logits;
    const std::vector<float> found = (*rounded)->forward(batch)->logits;
    ASSERT_EQ(found.size(), expected.size());
    double error = 0, square = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      error += std::pow(static_cast<double>(found[i]) - expected[i], 2);
      square += std::pow(static_cast<double>(expected[i]), 2);
    }
    // A weight of 8 bits is off by 1/254 of its group's largest at most; a row in a wrong place
    // gives an error of the size of the logits.
    EXPECT_LT(std::sqrt(error / square), 0.05) << tied;
    std::filesystem::remove_all(folder);
  }
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

TEST(Plan, NamesTheTypeOfTheCache) {
  const std::string folder = tiny_llama().write("cache_type");
  const std::vector<TokenSequence> batch = {{{1, 2, 3, 4, 5}}};
  // Two layers with two heads of keys and values of 4; scales take as much as a token's numbers.
  for (const auto& [cache, bytes] :
       {std::pair{CacheType::kF32, 2 * 2 * 8 * 4}, std::pair{CacheType::kBF16, 2 * 2 * 8 * 2},
        std::pair{CacheType::kInt8, 2 * 2 * (8 + 8)}}) {
    const auto model = Model::load(folder, {.threads = 1, .cache = cache});
    ASSERT_TRUE(model.ok()) << model.status().message();
    EXPECT_EQ((*model)->info().cache_type, cache);
    EXPECT_EQ((*model)->info().cache_bytes_per_token, bytes);
    const std::string plan = write_text(folder, "plan.json", (*model)->plan_json());
    const auto forced = Model::load(folder, {.plan_file = plan});
    ASSERT_TRUE(forced.ok()) << forced.status().message();
    EXPECT_EQ((*forced)->info().cache_type, cache);
    EXPECT_EQ((*forced)->forward(batch)->logits, (*model)->forward(batch)->logits);
    EXPECT_EQ(parse<CacheType>(name(cache)), cache);
  }
  const auto exact = Model::load(folder),
             rounded = Model::load(folder, {.cache = CacheType::kInt8});
  EXPECT_NE((*exact)->forward(batch)->logits, (*rounded)->forward(batch)->logits);
  EXPECT_FALSE(parse<CacheType>("int4").has_value());
}

TEST(Plan, EncodersHaveNoCache) {
  const auto model = Model::load(tiny_bert().write("no_cache"), {.cache = CacheType::kInt8});
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ((*model)->info().cache_type, CacheType::kF32);
}

// As in two steps but for rounding, of weights that are dense and so cost more; the plan says so
// and forces it.
TEST(Plan, PrecomputesVo) {
  const std::string folder = tiny_llama().write("precompute_vo");
  const auto off = Model::load(folder, {.threads = 1, .precompute_vo = PrecomputeVo::kOff});
  const auto on = Model::load(folder, {.threads = 1, .precompute_vo = PrecomputeVo::kOn});
  const auto chosen = Model::load(folder, {.threads = 1});
  ASSERT_TRUE(off.ok() && on.ok() && chosen.ok());
  EXPECT_CONTAINS((*on)->plan_json(), R"("method":"precomputed","why":"asked for; 16 of 16)");
  EXPECT_CONTAINS((*off)->plan_json(), R"("method":"two_step","why":"asked for; 16 of 16)");
  EXPECT_CONTAINS((*chosen)->plan_json(), R"("method":"two_step","why":"16 of 16)");
  EXPECT_EQ((*off)->info().executed_flops_per_token, (*off)->info().flops_per_token);
  EXPECT_EQ((*on)->info().flops_per_token, (*off)->info().flops_per_token);
  EXPECT_GT((*on)->info().executed_flops_per_token, (*on)->info().flops_per_token);
  // Two heads of keys of 4, and of values 2 of 4 or 4 of 16.
  EXPECT_EQ((*off)->info().cache_bytes_per_token, 2 * (8 + 8) * 4);
  EXPECT_EQ((*on)->info().cache_bytes_per_token, 2 * (8 + 64) * 4);
  const std::vector<TokenSequence> batch = {{{1, 2, 3, 4, 5}}, {{7}}, {{9, 8}}};
  const auto expected = (*off)->forward(batch), found = (*on)->forward(batch);
  ASSERT_TRUE(expected.ok() && found.ok());
  for (size_t i = 0; i < found->logits.size(); ++i)
    ASSERT_NEAR(expected->logits[i], found->logits[i], regrouped_bound(5, expected->logits)) << i;
  const std::string path = write_text(folder, "plan.json", (*on)->plan_json());
  const auto forced = Model::load(folder, {.threads = 1, .plan_file = path});
  ASSERT_TRUE(forced.ok()) << forced.status().message();
  EXPECT_EQ((*forced)->forward(batch)->logits, found->logits);
  EXPECT_CONTAINS(load_error(folder, {.precompute_vo = PrecomputeVo::kOn, .plan_file = path}),
                  "found both");
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
      ASSERT_NEAR(alone->logits[i], together->logits[first + i], regrouped_bound(40, alone->logits))
          << "sequence " << s;
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
  const auto more = load(R"({"num_beams": 3, "length_penalty": 0.5, "early_stopping": "never",
      "no_repeat_ngram_size": 2, "min_length": 4, "max_length": 9, "suppress_tokens": [4, -1],
      "bad_words_ids": [[1, 2]], "forced_eos_token_id": 3, "forced_bos_token_id": 5,
      "typical_p": 0.5, "guidance_scale": 2, "diversity_penalty": 0.0, "num_beam_groups": 2})");
  ASSERT_TRUE(more.ok()) << more.status().message();
  const GenerationDefaults& beams = (*more)->info().generation;
  EXPECT_EQ(beams.num_beams, 3);
  EXPECT_EQ(beams.length_penalty, 0.5f);
  EXPECT_EQ(beams.early_stopping, "never");
  EXPECT_EQ(beams.no_repeat_ngram_size, 2);
  EXPECT_EQ(beams.min_length, 4);
  EXPECT_EQ(beams.max_length, 9);
  EXPECT_EQ(beams.suppress_tokens, std::vector<int32_t>{4});
  EXPECT_EQ(beams.bad_words_ids, (std::vector<std::vector<int32_t>>{{1, 2}}));
  EXPECT_EQ(beams.forced_eos_token_id, std::vector<int32_t>{3});
  EXPECT_EQ(beams.forced_bos_token_id, 5);
  // typical_p matters to draws only, and a penalty of 0 is none.
  EXPECT_EQ(beams.not_followed, (std::vector<std::string>{"guidance_scale", "num_beam_groups"}));
  const auto drawn_beams = load(R"({"do_sample": true, "num_beams": 2, "typical_p": 0.5})");
  EXPECT_EQ((*drawn_beams)->info().generation.not_followed,
            (std::vector<std::string>{"typical_p", "num_beams"}));
}

TEST(Model, TellsWhatIsWrongInGenerationConfigToWhoeverUsesIt) {
  const std::string folder = tiny_llama().write("wrong_generation_config");
  for (const auto& [bad, key] :
       {std::pair(R"({"temperature": "hot"})", "temperature"),
        std::pair(R"({"do_sample": 1})", "do_sample"), std::pair(R"({"top_k": -1})", "top_k"),
        std::pair(R"({"top_p": 1.5})", "top_p"),
        std::pair(R"({"max_new_tokens": 0})", "max_new_tokens"),
        std::pair(R"({"bad_words_ids": [3]})", "bad_words_ids"),
        std::pair(R"({"bad_words_ids": []})", "bad_words_ids"),
        std::pair(R"({"bad_words_ids": [[]]})", "bad_words_ids"),
        std::pair(R"({"early_stopping": "soon"})", "early_stopping")}) {
    std::ofstream(folder + "/generation_config.json") << bad;
    const auto model = Model::load(folder, {.threads = 1});
    ASSERT_TRUE(model.ok()) << bad << model.status().message();
    const auto& wrong = (*model)->info().generation.wrong;
    ASSERT_EQ(wrong.size(), 1u) << bad;
    EXPECT_EQ(wrong[0].key, key);
    EXPECT_TRUE(wrong[0].message.starts_with(std::string("generation_config.json: ") + key + ": "))
        << wrong[0].message;
  }
}

TEST(Model, EndsAtNoTokenWhereGenerationConfigSaysNull) {
  const std::string folder = tiny_llama().write("no_end");
  const auto ends = [&](const std::string& text) {
    std::ofstream(folder + "/generation_config.json") << text;
    return state_of(**Model::load(folder, {.threads = 1})).architecture.end_ids;
  };
  EXPECT_EQ(ends("{}"), std::vector<int32_t>{49});
  EXPECT_EQ(ends(R"({"eos_token_id": [3, 4]})"), (std::vector<int32_t>{3, 4}));
  EXPECT_TRUE(ends(R"({"eos_token_id": null})").empty());
}

TEST(Model, TakesTheHeadOfTheWeightsWithoutAClass) {
  const auto head = [](TinyCheckpoint tiny, const std::string& class_name, const char* name) {
    tiny.with("\"architectures\": [\"" + class_name + "\"],", "");
    const auto model = Model::load(tiny.write(name), {.threads = 1});
    EXPECT_TRUE(model.ok()) << model.status().message();
    return model.ok() ? (*model)->info().head : Head::kNone;
  };
  EXPECT_EQ(head(tiny_llama(), "LlamaForCausalLM", "classless_llama"), Head::kCausalLm);
  EXPECT_EQ(head(tiny_bert(), "BertForMaskedLM", "classless_bert"), Head::kMaskedLm);
  TinyCheckpoint tied = tiny_llama();
  tied.shapes.erase("lm_head.weight");
  EXPECT_EQ(head(tied, "LlamaForCausalLM", "classless_base"), Head::kNone);
  tied.with("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
  EXPECT_EQ(head(tied, "LlamaForCausalLM", "classless_tied"), Head::kCausalLm);
  for (const auto& [tensor, pooler, expected] :
       {std::tuple("classifier.weight", "bert.pooler.dense", Head::kSequenceClassification),
        std::tuple("classifier.weight", "", Head::kTokenClassification),
        std::tuple("qa_outputs.weight", "", Head::kQuestionAnswering)}) {
    TinyCheckpoint tiny = tiny_bert();
    std::erase_if(tiny.shapes, [](const auto& each) { return each.first.starts_with("cls."); });
    const std::string output(tensor), base = output.substr(0, output.rfind('.'));
    tiny.shapes[output] = {2, 16};
    tiny.shapes[base + ".bias"] = {2};
    if (std::string(pooler) != "") {
      tiny.shapes[std::string(pooler) + ".weight"] = {16, 16};
      tiny.shapes[std::string(pooler) + ".bias"] = {16};
    }
    EXPECT_EQ(head(tiny, "BertForMaskedLM", "classless_other"), expected) << tensor << pooler;
  }
}

TEST(Model, TakesTheOutputsOwnBiasWhereAMaskedHeadIsNotTied) {
  const auto logits = [](const char* tied, const char* name) {
    TinyCheckpoint tiny = tiny_bert();
    tiny.with("{", std::string("{\"tie_word_embeddings\": ") + tied + ", ");
    tiny.shapes["cls.predictions.decoder.weight"] = {50, 16};
    tiny.shapes["cls.predictions.decoder.bias"] = {50};
    tiny.firsts = {{"cls.predictions.decoder.bias", 100.0f}, {"cls.predictions.bias", -100.0f}};
    const auto model = Model::load(tiny.write(name), {.threads = 1});
    EXPECT_TRUE(model.ok()) << model.status().message();
    return (*model)->forward({{{5, 6}, {}}})->logits[0];
  };
  EXPECT_GT(logits("false", "own_bias"), 50);
  EXPECT_LT(logits("true", "shared_bias"), -50);
}

}  // namespace
}  // namespace tessera
