#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tokenizer/proto_testing.h"
#include "tokenizer/tokenizer.h"

namespace tessera {
namespace {

using Json = nlohmann::json;

struct GoldenCase {
  const char* name;
  const char* directory;  // of tokenizer.json, below the shared data
};

void PrintTo(const GoldenCase& golden, std::ostream* out) { *out << golden.name; }

// Ids, type ids and decoded texts that the `tokenizers` library gives (version in golden.json) are
// met exactly.
class TokenizerGolden : public testing::TestWithParam<GoldenCase> {
 protected:
  void SetUp() override {
    const char* shared = std::getenv("TESSERA_SHARED");
    if (shared == nullptr) GTEST_SKIP() << "TESSERA_SHARED is not set";
    const std::filesystem::path root(shared);
    const auto golden = root / "golden/tokenizers" / GetParam().name / "golden.json";
    if (!std::filesystem::exists(golden)) GTEST_SKIP() << golden << " is absent";
    std::ifstream(golden) >> golden_;
    auto opened = Tokenizer::open((root / GetParam().directory).string());
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    tokenizer_ = *opened;
  }

  Json golden_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_P(TokenizerGolden, EncodesAndDecodesEveryText) {
  ASSERT_FALSE(golden_.at("cases").empty());
  for (const Json& one : golden_.at("cases")) {
    const auto text = one.at("text").get<std::string>();
    SCOPED_TRACE(text.substr(0, 200));
    const auto ids = one.at("ids").get<std::vector<int32_t>>();
    const auto encoded = tokenizer_->encode({text});
    ASSERT_TRUE(encoded.ok()) << encoded.status().message();
    EXPECT_EQ(encoded->ids, ids);
    EXPECT_EQ(encoded->type_ids.size(), encoded->ids.size());
    const auto plain = tokenizer_->encode({text}, {.special = SpecialTokens::kOmit});
    ASSERT_TRUE(plain.ok()) << plain.status().message();
    EXPECT_EQ(plain->ids, one.at("ids_plain").get<std::vector<int32_t>>());
    const auto kept = tokenizer_->decode(plain->ids, DecodeSpecial::kKeep);
    ASSERT_TRUE(kept.ok()) << kept.status().message();
    EXPECT_EQ(*kept, one.at("decoded").get<std::string>());
    const auto clean = tokenizer_->decode(ids, DecodeSpecial::kSkip);
    ASSERT_TRUE(clean.ok()) << clean.status().message();
    EXPECT_EQ(*clean, one.at("decoded_clean").get<std::string>());
  }
}

TEST_P(TokenizerGolden, EncodesEveryPair) {
  ASSERT_FALSE(golden_.at("pairs").empty());
  for (const Json& one : golden_.at("pairs")) {
    const auto encoded =
        tokenizer_->encode({one.at("a").get<std::string>(), one.at("b").get<std::string>()});
    ASSERT_TRUE(encoded.ok()) << encoded.status().message();
    EXPECT_EQ(encoded->ids, one.at("ids").get<std::vector<int32_t>>());
    EXPECT_EQ(encoded->type_ids, one.at("type_ids").get<std::vector<int32_t>>());
  }
}

// Streamed piece by piece, with and without a prompt before it, the text is that of the whole.
TEST_P(TokenizerGolden, StreamsTheDecodedText) {
  for (const Json& one : golden_.at("cases")) {
    const auto ids = one.at("ids").get<std::vector<int32_t>>();
    const auto whole = one.at("decoded_clean").get<std::string>();
    SCOPED_TRACE(whole.substr(0, 200));
    for (const size_t prompt : {size_t{0}, ids.size() / 2}) {
      StreamDecoder stream(tokenizer_, DecodeSpecial::kSkip);
      const std::vector<int32_t> prefix(ids.begin(), ids.begin() + static_cast<int64_t>(prompt));
      const auto before = tokenizer_->decode(prefix, DecodeSpecial::kSkip);
      ASSERT_TRUE(before.ok());
      if (!whole.starts_with(*before)) continue;  // the prompt ends inside a character
      stream.prime(prefix);
      std::string streamed = *before;
      for (size_t i = prompt; i < ids.size(); ++i) {
        const auto piece = stream.next(ids[i]);
        ASSERT_TRUE(piece.ok()) << piece.status().message();
        streamed += *piece;
      }
      const auto rest = stream.finish();
      ASSERT_TRUE(rest.ok());
      EXPECT_EQ(streamed + *rest, whole);
    }
  }
}

// What the sentencepiece library makes of a bare tokenizer.model.
class SentencePieceGolden : public TokenizerGolden {};

TEST_P(SentencePieceGolden, EncodesAndDecodesEveryText) {
  ASSERT_FALSE(golden_.at("cases").empty());
  for (const Json& one : golden_.at("cases")) {
    const auto text = one.at("text").get<std::string>();
    SCOPED_TRACE(text.substr(0, 200));
    const auto decoded = one.at("decoded").get<std::string>();
    const auto plain = tokenizer_->encode({text}, {.special = SpecialTokens::kOmit});
    ASSERT_TRUE(plain.ok()) << plain.status().message();
    EXPECT_EQ(plain->ids, one.at("ids_plain").get<std::vector<int32_t>>());
    for (const DecodeSpecial special : {DecodeSpecial::kKeep, DecodeSpecial::kSkip}) {
      const auto back = tokenizer_->decode(plain->ids, special);
      ASSERT_TRUE(back.ok()) << back.status().message();
      EXPECT_EQ(*back, decoded);
    }
    StreamDecoder stream(tokenizer_, DecodeSpecial::kSkip);
    std::string streamed;
    for (const int32_t id : plain->ids) streamed += *stream.next(id);
    EXPECT_EQ(streamed + *stream.finish(), decoded);
  }
}

INSTANTIATE_TEST_SUITE_P(, SentencePieceGolden,
                         testing::Values(GoldenCase{"spm-spiece", "golden/tokenizers/spm-spiece"},
                                         GoldenCase{"spm-test-model",
                                                    "golden/tokenizers/spm-test-model"}),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

INSTANTIATE_TEST_SUITE_P(
    , TokenizerGolden,
    testing::Values(GoldenCase{"bert-cased-style", "golden/tokenizers/bert-cased-style"},
                    GoldenCase{"bert-uncased-style", "golden/tokenizers/bert-uncased-style"},
                    GoldenCase{"minilm", "models/all-MiniLM-L6-v2"},
                    GoldenCase{"gpt2", "golden/tokenizers/gpt2"},
                    GoldenCase{"gpt2-style", "golden/tokenizers/gpt2-style"},
                    GoldenCase{"llama3-style", "golden/tokenizers/llama3-style"},
                    GoldenCase{"qwen2-style", "golden/tokenizers/qwen2-style"},
                    GoldenCase{"roberta-style", "golden/tokenizers/roberta-style"},
                    GoldenCase{"albert-unigram", "golden/tokenizers/albert-unigram"},
                    GoldenCase{"t5-unigram-style", "golden/tokenizers/t5-unigram-style"},
                    GoldenCase{"stories260K", "models/stories260K"}),
    [](const auto& info) {
      std::string name = info.param.name;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace tessera
