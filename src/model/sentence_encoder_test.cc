#include "model/sentence_encoder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "io/safetensors.h"

namespace tessera {
namespace {

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

// A directory with files of sentence-transformers and no model.
class Directory {
 public:
  explicit Directory(const std::string& name)
      : path_(::testing::TempDir() + "/encoder_" + name + std::to_string(getpid())) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~Directory() { std::filesystem::remove_all(path_); }

  Directory& put(const std::string& file, const std::string& text) {
    const std::filesystem::path path = path_ + "/" + file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
    return *this;
  }
  // Modules by the last parts of their types, in folders that are called like them.
  Directory& modules(const std::vector<std::string>& names) {
    std::string list;
    for (const std::string& name : names) {
      list += (list.empty() ? "" : ", ") +
              std::string(R"({"type": "sentence_transformers.models.)") + name + R"(", "path": ")" +
              (name == "Transformer" ? "" : name) + "\"}";
    }
    return put("modules.json", "[" + list + "]");
  }
  Result<SentenceEncoder> read() const { return read_sentence_encoder(*find_model(path_)); }
  std::string error() const { return read().status().message(); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(Pool, IsWhatItsFormulaSays) {
  const std::vector<float> rows = {1, -8, 2, 4, 6, 1};  // three of two numbers
  constexpr Pooling kAll[] = {Pooling::kFirstToken,   Pooling::kMax,
                              Pooling::kMean,         Pooling::kMeanSqrtLength,
                              Pooling::kWeightedMean, Pooling::kLastToken};
  std::vector<float> y(12);
  pool({rows.data(), 3, 2, 0}, kAll, y.data());
  const float root = std::sqrt(3.0f);
  const std::vector<float> whole = {1,        -8,        6,         4,        3, -1,
                                    9 / root, -3 / root, 23 / 6.0f, 3 / 6.0f, 6, 1};
  for (size_t i = 0; i < y.size(); ++i) EXPECT_FLOAT_EQ(y[i], whole[i]) << i;
  // Without the first row, whose place in the weighting the others keep.
  pool({rows.data(), 3, 2, 1}, kAll, y.data());
  const float half = std::sqrt(2.0f);
  const std::vector<float> rest = {2,        4,        6,         4,         4, 2.5f,
                                   8 / half, 5 / half, 22 / 5.0f, 11 / 5.0f, 6, 1};
  for (size_t i = 0; i < y.size(); ++i) EXPECT_FLOAT_EQ(y[i], rest[i]) << i;
  // The last row stays.
  pool({rows.data(), 3, 2, 9}, std::span(kAll).subspan(2, 1), y.data());
  EXPECT_EQ(y[0], 6);
}

TEST(SentenceEncoder, ReadsPoolingAsItWasAndIsWritten) {
  const auto poolings = [](const std::string& config) {
    Directory directory("pooling");
    directory.modules({"Transformer", "Pooling"}).put("Pooling/config.json", config);
    const auto encoder = directory.read();
    EXPECT_TRUE(encoder.ok()) << encoder.status().message();
    return encoder.ok() ? encoder->poolings : std::vector<Pooling>();
  };
  using List = std::vector<Pooling>;
  EXPECT_EQ(poolings(R"({"pooling_mode": "weightedmean", "embedding_dimension": 8})"),
            List{Pooling::kWeightedMean});
  EXPECT_EQ(poolings(R"({"pooling_mode": ["lasttoken", "cls"], "pooling_mode_max_tokens": true})"),
            (List{Pooling::kLastToken, Pooling::kFirstToken}));
  EXPECT_EQ(
      poolings(R"({"pooling_mode_lasttoken": true, "pooling_mode_weightedmean_tokens": true})"),
      (List{Pooling::kWeightedMean, Pooling::kLastToken}));
  EXPECT_EQ(poolings(R"({"pooling_mode_cls_token": false})"), List{Pooling::kMean});
  for (const char* bad : {R"({"pooling_mode": "median"})", R"({"pooling_mode": []})",
                          R"({"pooling_mode": 3})", R"({"pooling_mode_median": true})"}) {
    Directory directory("bad_pooling");
    directory.modules({"Transformer", "Pooling"}).put("Pooling/config.json", bad);
    EXPECT_CONTAINS(directory.error(), "pooling_mode");
  }
}

TEST(SentenceEncoder, TakesTheStrongestLimit) {
  const auto limit = [](Directory& directory) {
    directory.modules({"Transformer", "Pooling"}).put("Pooling/config.json", "{}");
    const auto encoder = directory.read();
    EXPECT_TRUE(encoder.ok()) << encoder.status().message();
    return encoder.ok() ? encoder->max_tokens : -1;
  };
  Directory directory("limits");
  EXPECT_EQ(limit(directory), 0);
  directory.put("tokenizer_config.json",
                R"({"model_max_length": 1000000000000000019884624838656})");
  EXPECT_EQ(limit(directory), 0);
  directory.put("tokenizer_config.json", R"({"model_max_length": 16})");
  EXPECT_EQ(limit(directory), 16);
  directory.put("sentence_xlm-roberta_config.json", R"({"max_seq_length": 24})");
  EXPECT_EQ(limit(directory), 24);
  // The first of the names that says anything is the only one that is read.
  directory.put("sentence_bert_config.json", R"({"tokenizer_args": {"model_max_length": 8}})");
  EXPECT_EQ(limit(directory), 8);
  directory.put("sentence_bert_config.json", R"({"do_lower_case": false})");
  EXPECT_EQ(limit(directory), 16);
  Directory plain("plain");
  plain.put("tokenizer_config.json", R"({"model_max_length": 12})");
  EXPECT_EQ(plain.read()->max_tokens, 12);
}

TEST(SentenceEncoder, ReadsPromptsAndSimilarity) {
  Directory directory("prompts");
  directory.modules({"Transformer", "Pooling", "Normalize"})
      .put("Pooling/config.json", R"({"pooling_mode": "mean", "include_prompt": false})")
      .put("config_sentence_transformers.json",
           R"({"prompts": {"query": "q: ", "document": null}, "default_prompt_name": "query",
               "similarity_fn_name": "dot"})");
  const auto encoder = directory.read();
  ASSERT_TRUE(encoder.ok()) << encoder.status().message();
  EXPECT_EQ(encoder->default_prompt, "q: ");
  EXPECT_EQ(encoder->prompts.size(), 2u);
  EXPECT_EQ(encoder->similarity, Similarity::kDot);
  EXPECT_EQ(encoder->prompt_tokens, PromptTokens::kLeftOut);
  directory.put("config_sentence_transformers.json", R"({"default_prompt_name": "x"})");
  EXPECT_CONTAINS(directory.error(), "default_prompt_name: expected one of the prompts");
  directory.put("config_sentence_transformers.json", R"({"similarity_fn_name": "maxsim"})");
  EXPECT_CONTAINS(directory.error(), "similarity_fn_name: expected one of cosine, dot");
  directory.put("config_sentence_transformers.json", R"({"model_type": "SparseEncoder"})");
  EXPECT_CONTAINS(directory.error(), "SparseEncoder");
}

TEST(SentenceEncoder, CutsVectorsToTruncateDim) {
  Directory directory("truncated");
  directory.modules({"Transformer", "Pooling", "Normalize"}).put("Pooling/config.json", "{}");
  const float row[] = {3, 4, 0, 12};  // of length 13
  const auto vector = [&](const std::string& settings) {
    directory.put("config_sentence_transformers.json", settings);
    const auto encoder = directory.read();
    EXPECT_TRUE(encoder.ok()) << encoder.status().message();
    std::vector<float> made(static_cast<size_t>(encoder->width(4)));
    encoder->embed({.hidden = row, .rows = 1, .size = 4}, made.data());
    EXPECT_EQ(encoder->whole_width(4), 4);
    return made;
  };
  // As sentence-transformers has it: normalised by its module before, and not again after.
  const std::vector<float> cut = vector(R"({"truncate_dim": 2})");
  ASSERT_EQ(cut.size(), 2u);
  EXPECT_FLOAT_EQ(cut[0], 3.0f / 13);
  EXPECT_FLOAT_EQ(cut[1], 4.0f / 13);
  EXPECT_EQ(vector(R"({"truncate_dim": null})").size(), 4u);
  EXPECT_EQ(vector(R"({"truncate_dim": 5})").size(), 4u);
  directory.put("config_sentence_transformers.json", R"({"truncate_dim": 0})");
  EXPECT_CONTAINS(directory.error(), "truncate_dim: expected an integer from 1");
}

TEST(SentenceEncoder, KnowsACrossEncoderByWhatFilesSay) {
  Directory directory("cross");
  directory.modules({"Transformer"});
  EXPECT_CONTAINS(directory.error(), "expected a Transformer, a Pooling");
  directory.put(
      "config_sentence_transformers.json",
      R"({"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.activation.Tanh"})");
  ASSERT_TRUE(directory.read().ok()) << directory.error();
  EXPECT_EQ(directory.read()->kind, SentenceEncoder::Kind::kClassifier);
  EXPECT_EQ(directory.read()->relevance_scores, LabelScores::kTanh);
  for (const char* name : {"torch.nn.modules.activation.GELU", "my.own.Sigmoid"}) {
    directory.put(
        "config_sentence_transformers.json",
        std::string(R"({"model_type": "CrossEncoder", "activation_fn": ")") + name + "\"}");
    EXPECT_CONTAINS(directory.error(), name);
  }
  Directory by_task("by_task");
  by_task.modules({"Transformer"})
      .put("sentence_bert_config.json", R"({"transformer_task": "sequence-classification"})");
  EXPECT_EQ(by_task.read()->kind, SentenceEncoder::Kind::kClassifier);
  by_task.put("sentence_bert_config.json", R"({"transformer_task": "fill-mask"})");
  EXPECT_CONTAINS(by_task.error(), "fill-mask");
}

TEST(SentenceEncoder, RefusesWhatItDoesNotRun) {
  Directory directory("modules");
  directory.put("Pooling/config.json", "{}").modules({"Transformer", "Pooling", "WordWeights"});
  EXPECT_CONTAINS(directory.error(), "WordWeights");
  directory.modules({"Transformer", "Normalize", "Pooling"});
  EXPECT_CONTAINS(directory.error(), "found Transformer, Normalize, Pooling");
  directory.put("modules.json", R"([{"type": "my_package.Transformer", "path": ""}])");
  EXPECT_CONTAINS(directory.error(), "my_package.Transformer");
  const std::string sparse = "sentence_transformers.sparse_encoder.modules.SpladePooling";
  directory.put("modules.json", R"([{"type": ")" + sparse + R"(", "path": ""}])");
  EXPECT_CONTAINS(directory.error(), "\"" + sparse + "\"");
  directory.put("modules.json",
                R"([{"type": "sentence_transformers.models.Pooling", "path": "../x"}])");
  EXPECT_CONTAINS(directory.error(), "inside the directory");
  directory.modules({"Transformer", "Pooling", "Dense"}).put("Dense/config.json", "{}");
  EXPECT_CONTAINS(directory.error(), directory.path() + "/Dense/config.json: in_features");
}

TEST(SentenceEncoder, RunsTheStepsBehindThePooling) {
  Directory directory("steps");
  directory.modules({"Transformer", "Pooling", "Dropout", "Dense", "LayerNorm", "Normalize"})
      .put("Pooling/config.json", "{}")
      .put("Dense/config.json", R"({"in_features": 2, "out_features": 3, "use_residual": true,
           "activation_function": "torch.nn.modules.activation.ReLU"})")
      .put("LayerNorm/config.json", R"({"dimension": 3})");
  const std::vector<float> weight = {1, 2, -1, 0, 0.5f, 1}, bias = {0, 1, -1};
  const std::vector<float> residual = {1, 0, 0, 1, 1, 1}, scale = {1, 2, 3}, shift = {0, 0, 1};
  ASSERT_TRUE(write_safetensors(directory.path() + "/Dense/model.safetensors",
                                {{"linear.weight", DType::kF32, {3, 2}, weight.data()},
                                 {"linear.bias", DType::kF32, {3}, bias.data()},
                                 {"residual.weight", DType::kF32, {3, 2}, residual.data()}})
                  .ok());
  ASSERT_TRUE(write_safetensors(directory.path() + "/LayerNorm/model.safetensors",
                                {{"norm.weight", DType::kF32, {3}, scale.data()},
                                 {"norm.bias", DType::kF32, {3}, shift.data()}})
                  .ok());
  const auto encoder = directory.read();
  ASSERT_TRUE(encoder.ok()) << encoder.status().message();
  EXPECT_TRUE(encoder->check(2, "d").ok());
  EXPECT_EQ(encoder->width(2), 3);
  EXPECT_CONTAINS(encoder->check(4, "d").message(), "d: in_features: expected 4");
  const std::vector<float> row = {3, -2};
  std::vector<float> y(3);
  encoder->embed({row.data(), 1, 2, 0}, y.data());
  // ReLU(-1, -2, -1.5) + (3, -2, 1), whose mean is 2/3.
  const double mean = 2.0 / 3, spread = std::sqrt((9 + 4 + 1) / 3.0 - mean * mean + 1e-5);
  const double norm[] = {(3 - mean) / spread, 2 * (-2 - mean) / spread,
                         3 * (1 - mean) / spread + 1};
  const double length = std::sqrt(norm[0] * norm[0] + norm[1] * norm[1] + norm[2] * norm[2]);
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(y[i], norm[i] / length, 1e-6) << i;
}

}  // namespace
}  // namespace tessera
