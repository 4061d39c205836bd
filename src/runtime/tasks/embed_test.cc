#include <cmath>
#include <filesystem>

#include "runtime/tasks/testing.h"
#include "tessera/embedder.h"

namespace tessera {
namespace {

using namespace tessera::testing;  // NOLINT: what tests are made with

#define EXPECT_CONTAINS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

// The tiny BERT as sentence-transformers saves it.
std::shared_ptr<Model> load_encoder(const std::string& name, const std::string& pooling,
                                    const std::string& settings) {
  const std::string folder = tiny_bert().write("embed_" + name);
  write_tiny_tokenizer(folder);
  std::filesystem::create_directories(folder + "/pool");
  std::ofstream(folder + "/modules.json")
      << R"([{"type": "sentence_transformers.models.Transformer", "path": ""},
             {"type": "sentence_transformers.models.Pooling", "path": "pool"}])";
  std::ofstream(folder + "/pool/config.json") << pooling;
  std::ofstream(folder + "/config_sentence_transformers.json") << settings;
  return load_tiny(folder);
}

constexpr const char* kPrompts =
    R"({"prompts": {"query": "q r ", "document": "d "}, "default_prompt_name": "query"})";

std::vector<float> vector_of(Model& model, const std::string& text,
                             const EmbedOptions& options = {}) {
  const auto found = embed(model, std::vector{text_input(text)}, options);
  EXPECT_TRUE(found.ok()) << found.status().message();
  return found.ok() ? found->front().vector : std::vector<float>();
}

TEST(Embed, PutsPromptsBeforeTexts) {
  const auto model = load_encoder("prompts", R"({"pooling_mode": "mean"})", kPrompts);
  EmbedOptions none, document, own;
  none.prompt = "";
  document.prompt_name = "document";
  own.prompt = "d ";
  EXPECT_EQ(vector_of(*model, "a b"), vector_of(*model, "q r a b", none));
  EXPECT_EQ(vector_of(*model, "a b", document), vector_of(*model, "d a b", none));
  EXPECT_EQ(vector_of(*model, "a b", own), vector_of(*model, "d a b", none));
  // Ids are taken as they are.
  const auto ids = embed(*model, std::vector{ids_input({kCls, 5, 6, kSep})});
  EXPECT_EQ(ids->front().vector, vector_of(*model, "a b", none));
  EmbedOptions wrong;
  wrong.prompt_name = "passage";
  const std::vector<TaskInput> inputs = {text_input("a")};
  EXPECT_CONTAINS(embed(*model, inputs, wrong).status().message(), "(document, query)");
  wrong.prompt = "x";
  EXPECT_CONTAINS(embed(*model, inputs, wrong).status().message(), "found both");
}

TEST(Embed, LeavesThePromptOutOfThePooling) {
  const auto model =
      load_encoder("left_out", R"({"pooling_mode": "mean", "include_prompt": false})", kPrompts);
  // [CLS] q r | a b [SEP]
  const auto states =
      model->forward({{{kCls, 5 + 16, 5 + 17, 5, 6, kSep}, {}}}, {.hidden_states = true});
  const std::vector<float>& last = states->hidden_states.back();
  const std::vector<float> found = vector_of(*model, "a b");
  for (size_t c = 0; c < 16; ++c) {
    EXPECT_NEAR(found[c], (last[3 * 16 + c] + last[4 * 16 + c] + last[5 * 16 + c]) / 3, 1e-5);
  }
}

TEST(Embed, PoolsCutsAndNormalisesAsAskedFor) {
  const auto model = load_encoder("asked", R"({"pooling_mode": "mean"})", "{}");
  const auto states = model->forward({{{kCls, 5, kSep}, {}}}, {.hidden_states = true});
  const std::vector<float>& last = states->hidden_states.back();
  EmbedOptions options;
  options.poolings = {Pooling::kLastToken, Pooling::kFirstToken};
  const std::vector<float> both = vector_of(*model, "a", options);
  ASSERT_EQ(both.size(), 32u);
  for (size_t c = 0; c < 16; ++c) {
    EXPECT_NEAR(both[c], last[2 * 16 + c], 1e-5);
    EXPECT_NEAR(both[16 + c], last[c], 1e-5);
  }
  options.dimensions = 3;
  EXPECT_EQ(vector_of(*model, "a", options), std::vector<float>(both.begin(), both.begin() + 3));
  options.normalise = Normalise::kYes;
  double square = 0;
  for (const float x : vector_of(*model, "a", options)) square += x * x;
  EXPECT_NEAR(square, 1, 1e-6);
  options.dimensions = 33;
  EXPECT_CONTAINS(embed(*model, std::vector{text_input("a")}, options).status().message(),
                  "dimensions: expected at most the 32");
  // Without modules.json vectors have the length 1 unless they are to keep theirs.
  const auto plain = load_tiny(tiny_bert(), "embed_plain");
  EmbedOptions kept;
  kept.normalise = Normalise::kNo;
  const std::vector<float> unit = vector_of(*plain, "a"), whole = vector_of(*plain, "a", kept);
  double length = 0;
  for (const float x : whole) length += double{x} * x;
  for (size_t c = 0; c < 16; ++c) EXPECT_NEAR(unit[c], whole[c] / std::sqrt(length), 1e-6);
}

TEST(Embed, CutsTextsToTheDeclaredLimit) {
  const std::string folder = tiny_bert().write("embed_limit");
  write_tiny_tokenizer(folder);
  std::ofstream(folder + "/tokenizer_config.json") << R"({"model_max_length": 4})";
  const auto model = load_tiny(folder);
  EXPECT_EQ(model->info().max_text_tokens, 4);
  const auto found = embed(*model, std::vector{text_input("a b c d")});
  ASSERT_TRUE(found.ok()) << found.status().message();
  EXPECT_EQ(found->front().ids, (std::vector<int32_t>{kCls, 5, 6, kSep}));
  EXPECT_TRUE(found->front().truncated);
  std::ofstream(folder + "/tokenizer_config.json")
      << R"({"model_max_length": 4, "truncation_side": "left"})";
  EXPECT_EQ(embed(*load_tiny(folder), std::vector{text_input("a b c d")})->front().ids,
            (std::vector<int32_t>{kCls, 7, 8, kSep}));
  EmbedOptions strict;
  strict.too_long = TooLong::kRefuse;
  EXPECT_EQ(
      embed(*model, std::vector{text_input("a"), text_input("a b c")}, strict).status().message(),
      "input 1: expected at most 4 tokens, the model's limit, found 5");
}

TEST(Embedder, GivesTheVectorsOfItsModel) {
  const auto model =
      load_encoder("embedder", R"({"pooling_mode": "mean"})", R"({"similarity_fn_name": "dot"})");
  const Result<Embedder> embedder = Embedder::open(model->info().directory);
  ASSERT_TRUE(embedder.ok()) << embedder.status().message();
  const Result<Vectors> vectors = embedder->embed({"a b", "c"});
  ASSERT_TRUE(vectors.ok()) << vectors.status().message();
  // The texts run together, which may round otherwise.
  const std::vector<float> first = vector_of(*model, "a b"), second = vector_of(*model, "c");
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_NEAR((*vectors)[0][i], first[i], 1e-5);
    EXPECT_NEAR((*vectors)[1][i], second[i], 1e-5);
  }
  EXPECT_EQ(embedder->dimensions(), 16);
  EXPECT_EQ(embedder->similarity((*vectors)[0], (*vectors)[1]),
            similarity(Similarity::kDot, (*vectors)[0], (*vectors)[1]));
  EXPECT_EQ(*embed(model->info().directory, {"a b", "c"}), *vectors);
}

TEST(Embedder, NeedsATokenizer) {
  const Result<Embedder> embedder = Embedder::open(tiny_bert().write("embedder_none"));
  EXPECT_EQ(embedder.status().code(), StatusCode::kNotFound);
  EXPECT_CONTAINS(embedder.status().message(), "tokenizer");
}

TEST(Similarity, IsWhatItsNameSays) {
  const std::vector<float> a = {3, 4}, b = {4, 3};
  EXPECT_DOUBLE_EQ(similarity(Similarity::kDot, a, b), 24);
  EXPECT_DOUBLE_EQ(similarity(Similarity::kCosine, a, b), 24.0 / 25);
  EXPECT_DOUBLE_EQ(similarity(Similarity::kManhattan, a, b), -2);
  EXPECT_DOUBLE_EQ(similarity(Similarity::kEuclidean, a, b), -std::sqrt(2.0));
}

}  // namespace
}  // namespace tessera
