#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tokenizer/proto_testing.h"
#include "tokenizer/testing.h"

// Directories without a tokenizer.json.
namespace tessera::tokenizer {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

// An empty directory that is gone after the test.
class Files : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tessera-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void write(const std::string& name, const std::string& text) const {
    std::ofstream(directory_ / name, std::ios::binary) << text;
  }
  Result<std::shared_ptr<const Tokenizer>> open() const {
    return Tokenizer::open(directory_.string());
  }
  // The message without the directory's name.
  std::string error() const {
    const auto made = open();
    std::string text = made.ok() ? "" : made.status().message();
    const std::string prefix = directory_.string() + "/";
    if (text.starts_with(prefix)) text.erase(0, prefix.size());
    return text;
  }
  Ids ids(const std::string& text, SpecialTokens special = SpecialTokens::kAdd) const {
    const auto made = open();
    EXPECT_TRUE(made.ok()) << made.status().message();
    if (!made.ok()) return {};
    return (*made)->encode({text}, {.special = special})->ids;
  }
  Encoding pair(const std::string& first, const std::string& second) const {
    const auto made = open();
    EXPECT_TRUE(made.ok()) << made.status().message();
    return made.ok() ? *(*made)->encode({first, second}) : Encoding();
  }
  // Copies a file of the shared data; false when there is none.
  bool copy_shared(const std::string& from, const std::string& name) const {
    const char* shared = std::getenv("TESSERA_SHARED");
    if (shared == nullptr) return false;
    const auto path = std::filesystem::path(shared) / from;
    if (!std::filesystem::exists(path)) return false;
    std::filesystem::copy_file(path, directory_ / name);
    return true;
  }
  void expect_golden(const std::string& name) const {
    const auto path =
        std::filesystem::path(std::getenv("TESSERA_SHARED")) / "golden/tokenizers" / name;
    const Json golden = Json::parse(std::ifstream(path / "golden.json"));
    const auto made = open();
    ASSERT_TRUE(made.ok()) << made.status().message();
    for (const Json& one : golden.at("cases")) {
      SCOPED_TRACE(one.at("text").get<std::string>().substr(0, 200));
      const auto encoded = (*made)->encode({one.at("text").get<std::string>()});
      ASSERT_TRUE(encoded.ok()) << encoded.status().message();
      EXPECT_EQ(encoded->ids, one.at("ids").get<Ids>());
      EXPECT_EQ(*(*made)->decode(encoded->ids, DecodeSpecial::kSkip),
                one.at("decoded_clean").get<std::string>());
    }
    for (const Json& one : golden.at("pairs")) {
      const auto encoded =
          (*made)->encode({one.at("a").get<std::string>(), one.at("b").get<std::string>()});
      EXPECT_EQ(encoded->ids, one.at("ids").get<Ids>());
      EXPECT_EQ(encoded->type_ids, one.at("type_ids").get<Ids>());
    }
  }

  std::filesystem::path directory_;
};

TEST_F(Files, WithoutAnyIsNotFound) {
  const auto made = open();
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().code(), StatusCode::kNotFound);
  EXPECT_NE(made.status().message().find("found none of these"), std::string::npos);
}

TEST_F(Files, Gpt2VocabularyAndMergesEqualTheGolden) {
  if (!copy_shared("golden/tokenizers/gpt2-files/vocab.json", "vocab.json") ||
      !copy_shared("golden/tokenizers/gpt2-files/merges.txt", "merges.txt")) {
    GTEST_SKIP() << "the shared data is absent";
  }
  expect_golden("gpt2");
}

TEST_F(Files, BertVocabularyEqualsTheGolden) {
  if (!copy_shared("models/all-MiniLM-L6-v2/vocab.txt", "vocab.txt") ||
      !copy_shared("models/all-MiniLM-L6-v2/tokenizer_config.json", "tokenizer_config.json")) {
    GTEST_SKIP() << "the shared data is absent";
  }
  expect_golden("minilm");
}

// The files that a tokenizer.json holds, apart.
TEST_F(Files, QwenAndRobertaFilesEqualTheirGoldens) {
  for (const std::string name : {"qwen2-style", "roberta-style"}) {
    SCOPED_TRACE(name);
    if (!copy_shared("golden/tokenizers/" + name + "/tokenizer.json", "whole.json")) {
      GTEST_SKIP() << "the shared data is absent";
    }
    const Json whole = Json::parse(std::ifstream(directory_ / "whole.json"));
    std::filesystem::remove(directory_ / "whole.json");
    write("vocab.json", whole.at("model").at("vocab").dump());
    std::string merges = "#version: 0.2\n";
    for (const Json& merge : whole.at("model").at("merges")) {
      merges += merge.is_string() ? merge.get<std::string>()
                                  : merge[0].get<std::string>() + " " + merge[1].get<std::string>();
      merges += '\n';
    }
    write("merges.txt", merges);
    Json config = {
        {"tokenizer_class", name == "qwen2-style" ? "Qwen2Tokenizer" : "RobertaTokenizer"}};
    for (const Json& token : whole.at("added_tokens")) {
      config["added_tokens_decoder"][std::to_string(token.at("id").get<int>())] = token;
    }
    write("tokenizer_config.json", config.dump());
    expect_golden(name);
  }
}

TEST_F(Files, BertReadsItsOptions) {
  write("vocab.txt", "[PAD]\r\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nA\na\n\xC3\xA4\n\xE4\xB8\xAD\nb");
  EXPECT_EQ(ids("A \xC3\x84 \xE4\xB8\xAD"
                "b [MASK]"),
            Ids({2, 6, 6, 8, 9, 4, 3}));
  EXPECT_EQ(pair("a", "b").type_ids, Ids({0, 0, 0, 1, 1}));
  write("tokenizer_config.json", R"({"do_lower_case": false})");
  EXPECT_EQ(ids("A a"), Ids({2, 5, 6, 3}));
  write("tokenizer_config.json", R"({"strip_accents": false, "tokenize_chinese_chars": false})");
  EXPECT_EQ(ids("\xC3\x84 \xE4\xB8\xAD"
                "b"),
            Ids({2, 7, 1, 3}));
  write("tokenizer_config.json",
        R"({"cls_token": {"content": "A"}, "tokenizer_class": "BertTokenizer"})");
  EXPECT_EQ(ids("b"), Ids({5, 9, 3}));
  write("tokenizer_config.json", R"({"tokenizer_class": "MPNetTokenizer"})");
  EXPECT_EQ(error(),
            "vocab.txt: a vocab.txt of the family \"mpnet\" is not supported, expected BERT or one "
            "of its kind");
}

TEST_F(Files, RobertaIsKnownByItsVocabulary) {
  write("vocab.json", R"({"<s>": 0, "</s>": 1, "<mask>": 2, "a": 3, "b": 4, "ab": 5})");
  write("merges.txt", "#version: 0.2\na b\n");
  EXPECT_EQ(ids("ab"), Ids({0, 5, 1}));
  EXPECT_EQ(ids("a <mask>"), Ids({0, 3, 2, 1})) << "the mask takes the space before it";
  const Encoding both = pair("a", "b");
  EXPECT_EQ(both.ids, Ids({0, 3, 1, 1, 4, 1}));
  EXPECT_EQ(both.type_ids, Ids({0, 0, 0, 0, 0, 0}));
  write("config.json", R"({"model_type": "gpt2"})");
  EXPECT_EQ(ids("ab"), Ids({5}));
  write("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": "</s>"})");
  EXPECT_EQ(ids("ab"), Ids({1, 5}));
  write("config.json", R"({"model_type": "clip"})");
  EXPECT_NE(error().find("of the family \"clip\" are not supported"), std::string::npos);
}

TEST_F(Files, AddedTokensComeFromTheirFile) {
  write("vocab.json", R"({"a": 0, "b": 1, "<|endoftext|>": 2})");
  write("merges.txt", "");
  write("added_tokens.json", R"({"<new>": 7, "<|end|>": 8})");
  write("special_tokens_map.json", R"({"additional_special_tokens": ["<|end|>"]})");
  EXPECT_EQ(ids("a<new>b<|end|>"), Ids({0, 7, 1, 8}));
  EXPECT_EQ(*(*open())->decode({0, 7, 8}, DecodeSpecial::kSkip), "a<new>");
}

TEST_F(Files, ReportsDamagedVocabularies) {
  write("vocab.txt", "a\n\xFF\n");
  EXPECT_EQ(error(), "vocab.txt: expected UTF-8, found byte 0xFF at offset 2");
  write("vocab.txt", "");
  EXPECT_EQ(error(), "vocab.txt: expected the special token \"[CLS]\", found none such");
  write("vocab.json", "[]");
  EXPECT_EQ(error(), "vocab.json: expected an object, found an array");
  write("vocab.json", R"({"a": 0, "b": -1})");
  EXPECT_EQ(error(), "vocab.json: b: expected an integer from 0 to 65664, found -1");
  write("vocab.json", R"({"a": 0, "b": 1})");
  EXPECT_NE(error().find("merges.txt"), std::string::npos);
  write("merges.txt", "a b c\n");
  EXPECT_EQ(error(),
            "merges.txt: expected two tokens with a space between, found \"a b c\" on line 1");
  write("merges.txt", "ab\n");
  EXPECT_NE(error().find("found \"ab\" on line 1"), std::string::npos);
  write("merges.txt", "a \n");
  EXPECT_NE(error().find("on line 1"), std::string::npos);
  write("merges.txt", "a \xFF\n");
  EXPECT_EQ(error(), "merges.txt: expected UTF-8, found byte 0xFF at offset 2");
  write("merges.txt", "a b\n");
  EXPECT_NE(error().find("expected tokens of the vocabulary, found \"ab\""), std::string::npos);
  write("merges.txt", "");
  EXPECT_EQ(error(), "");
  write("tokenizer_config.json", "[1]");
  EXPECT_EQ(error(), "tokenizer_config.json: expected an object, found an array");
  write("tokenizer_config.json", "{");
  EXPECT_NE(error().find("expected JSON"), std::string::npos);
  for (
      const char* config :
      {R"({"add_bos_token": 3, "bos_token": [], "tokenizer_class": 4, "added_tokens_decoder": []})",
       R"({"additional_special_tokens": {"a": 3}, "mask_token": {"content": null}})"}) {
    write("tokenizer_config.json", config);
    EXPECT_EQ(error(), "") << config;
  }
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "<x>"}}})");
  EXPECT_NE(error(), "");
  write("tokenizer_config.json",
        R"({"added_tokens_decoder": {"99999999999": {"content": "<x>"}}})");
  EXPECT_NE(error(), "");
}

TEST_F(Files, SentencePieceTakesItsSpecialTokensFromTheConfig) {
  TestSentencePiece model;
  for (const char* text : {"\xE2\x96\x81", "a", "[CLS]", "[SEP]"})
    model.pieces.push_back({text, -1});
  write("tokenizer.model", model.to_bytes());
  EXPECT_EQ(ids("a"), Ids({3, 4})) << "a bare model adds nothing";
  write("tokenizer_config.json",
        R"({"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>"})");
  EXPECT_EQ(ids("a"), Ids({1, 3, 4}));
  EXPECT_EQ(ids("a<s>a"), Ids({1, 3, 4, 1, 3, 4})) << "special tokens are found in the text";
  EXPECT_EQ(pair("a", "a").ids, Ids({1, 3, 4, 1, 3, 4}));
  EXPECT_EQ(pair("a", "a").type_ids, Ids({0, 0, 0, 1, 1, 1}));
  write("tokenizer_config.json",
        R"({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "legacy": false,
            "add_bos_token": false, "add_eos_token": true})");
  EXPECT_EQ(ids("a<s>a"), Ids({3, 4, 1, 4, 2})) << "one prefix, at the beginning";
  write("tokenizer_config.json", R"({"tokenizer_class": "T5Tokenizer"})");
  EXPECT_EQ(pair("a", "a").ids, Ids({3, 4, 2, 3, 4, 2}));
  EXPECT_EQ(pair("a", "a").type_ids, Ids({0, 0, 0, 0, 0, 0}));
  write("tokenizer_config.json", R"({"tokenizer_class": "AlbertTokenizer"})");
  EXPECT_EQ(pair("a", "a").ids, Ids({5, 3, 4, 6, 3, 4, 6}));
  write("tokenizer_config.json", R"({"tokenizer_class": "T5Tokenizer", "eos_token": "<end>"})");
  EXPECT_NE(error().find("expected a token \"<end>\" in the vocabulary, found none"),
            std::string::npos);
}

TEST_F(Files, SentencePieceModelsHaveOtherNamesToo) {
  TestSentencePiece model;
  for (const char* text : {"\xE2\x96\x81", "a"}) model.pieces.push_back({text, -1});
  write("spiece.model", model.to_bytes());
  write("tokenizer_config.json", R"({"tokenizer_class": "T5Tokenizer"})");
  EXPECT_EQ(ids("a"), Ids({3, 4, 2}));
  for (const char* other : {"Pegasus", "Albert", "XLNet"}) {
    write("tokenizer_config.json", fmt::format(R"({{"tokenizer_class": "{}Tokenizer"}})", other));
    EXPECT_NE(error().find("is not supported without a tokenizer.json, expected T5"),
              std::string::npos);
  }
}

// The ids of fairseq: the pieces follow the four special tokens, and the mask comes last.
TEST_F(Files, XlmRobertaShiftsItsPieces) {
  TestSentencePiece model;
  for (const char* text : {"\xE2\x96\x81", "a", "b"}) model.pieces.push_back({text, -1});
  write("sentencepiece.bpe.model", model.to_bytes());
  write("tokenizer_config.json", R"({"tokenizer_class": "XLMRobertaTokenizerFast"})");
  const auto made = open();
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ((*made)->vocabulary_size(), 8);
  EXPECT_EQ((*made)->mask_id(), 7);
  EXPECT_EQ((*made)->token_of(1), "<pad>");
  EXPECT_EQ(ids("ab"), Ids({0, 4, 5, 6, 2}));
  EXPECT_EQ(ids("z"), Ids({0, 4, 3, 2})) << "<unk>";
  EXPECT_EQ(ids("a <mask>"), Ids({0, 4, 5, 7, 2})) << "the mask takes the space before it";
  EXPECT_EQ(pair("a", "b").ids, Ids({0, 4, 5, 2, 2, 4, 6, 2}));
  EXPECT_EQ(pair("a", "b").type_ids, Ids(8, 0));
  EXPECT_EQ(*(*made)->decode({0, 4, 5, 6, 2}, DecodeSpecial::kSkip), "ab");
  write("tokenizer_config.json", "{}");
  write("config.json", R"({"model_type": "xlm-roberta"})");
  EXPECT_EQ(ids("ab"), Ids({0, 4, 5, 6, 2}));
  write("config.json", R"({"model_type": "camembert"})");
  EXPECT_NE(error().find("of the family \"camembert\" is not supported without a tokenizer.json, "
                         "expected XLM-RoBERTa"),
            std::string::npos);
  write("config.json", R"({"model_type": "xlm-roberta"})");
  model.pieces.push_back({"<mask>", 0, 4});
  write("sentencepiece.bpe.model", model.to_bytes());
  EXPECT_NE(error().find("expected no piece \"<mask>\""), std::string::npos);
  std::swap(model.pieces[0], model.pieces[1]);
  write("sentencepiece.bpe.model", model.to_bytes());
  EXPECT_NE(error().find("expected \"<unk>\" as piece 0 of XLM-RoBERTa, found \"<s>\""),
            std::string::npos);
}

TEST_F(Files, TheMaskIsTheTokenThatIsNamedSo) {
  const auto mask = [&] {
    const auto made = open();
    EXPECT_TRUE(made.ok()) << made.status().message();
    return made.ok() ? (*made)->mask_id() : std::optional<int32_t>(-1);
  };
  write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n[MASK]\n<hidden>\n");
  EXPECT_EQ(mask(), 5) << "BERT's";
  write("special_tokens_map.json", R"({"mask_token": {"content": "<hidden>"}})");
  EXPECT_EQ(mask(), 6);
  std::filesystem::remove(directory_ / "special_tokens_map.json");
  Parts parts;
  parts.model = R"({"type": "BPE", "merges": [], "vocab": {"a": 0, "<mask>": 1}})";
  write("tokenizer.json", to_json(parts));
  EXPECT_EQ(mask(), std::nullopt) << "not a special token";
  parts.added_tokens = R"([{"id": 1, "content": "<mask>", "special": true}])";
  write("tokenizer.json", to_json(parts));
  EXPECT_EQ(mask(), 1);
  write("tokenizer_config.json", R"({"mask_token": "a"})");
  EXPECT_EQ(mask(), 0);
}

// A tokenizer.json of the letters a and A, "ab" and an accent, with a normalizer that changes
// nothing.
constexpr const char* kLetters =
    R"({"added_tokens": [{"id": 0, "content": "[UNK]", "special": true}],
  "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                 "strip_accents": false, "lowercase": false},
  "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
  "truncation": {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
  "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {"[UNK]": 0, "a": 1, "A": 2, "\u00e4": 3, "b": 4, ",": 5, "<x>": 6}}})";

TEST_F(Files, ConfigOverrulesTokenizerJsonForBertClasses) {
  write("tokenizer.json", kLetters);
  EXPECT_EQ(ids("a A \xC3\xA4 a,b"), (Ids{1, 2, 3, 0}));
  const auto with = [&](const std::string& config) {
    write("tokenizer_config.json", config);
    return ids("a A \xC3\xA4 a,b");
  };
  EXPECT_EQ(with(R"({"tokenizer_class": "BertTokenizer"})"), (Ids{1, 1, 1, 1, 5, 4}));
  EXPECT_EQ(with(R"({"tokenizer_class": "DistilBertTokenizerFast", "strip_accents": false})"),
            (Ids{1, 1, 3, 1, 5, 4}));
  EXPECT_EQ(with(R"({"tokenizer_class": "ElectraTokenizer", "do_lower_case": false})"),
            (Ids{1, 2, 3, 1, 5, 4}));
  // Classes that take tokenizer.json as it is.
  EXPECT_EQ(with(R"({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": true})"),
            (Ids{1, 2, 3, 0}));
  EXPECT_EQ(with(R"({"do_lower_case": true})"), (Ids{1, 2, 3, 0}));
  write("config.json", R"({"model_type": "bert"})");
  EXPECT_EQ(with(R"({"do_lower_case": true})"), (Ids{1, 1, 1, 1, 5, 4}));
}

// Expected ids: transformers 5.24.
TEST_F(Files, ConfigSaysWhatBeginsAndEndsATextOfBertClasses) {
  Json letters = Json::parse(kLetters);
  letters["model"]["vocab"] = {{"[UNK]", 0}, {"a", 1}, {"[CLS]", 2}, {"[SEP]", 3}, {"<x>", 6}};
  letters["added_tokens"] = Json::array();
  letters["post_processor"] = {
      {"type", "BertProcessing"}, {"cls", {"[CLS]", 2}}, {"sep", {"[SEP]", 3}}};
  write("tokenizer.json", letters.dump());
  const auto with = [&](const std::string& config) {
    write("tokenizer_config.json", config);
    return ids("a");
  };
  EXPECT_EQ(with(R"({"tokenizer_class": "BertTokenizer"})"), (Ids{2, 1, 3}));
  EXPECT_EQ(with(R"({"tokenizer_class": "BertTokenizer", "cls_token": "<x>"})"), (Ids{6, 1, 3}));
  EXPECT_EQ(with(R"({"tokenizer_class": "BertTokenizerFast", "sep_token": "<new>"})"),
            (Ids{2, 1, 7}));
  EXPECT_EQ(with(R"({"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "<x>"})"),
            (Ids{2, 1, 3}));
  write("tokenizer_config.json", R"({"tokenizer_class": "BertTokenizer", "unk_token": "<x>"})");
  EXPECT_EQ(error(),
            "tokenizer_config.json: unk_token: expected \"[UNK]\", as tokenizer.json has it, found "
            "\"<x>\"");
}

// Expected ids: transformers 5.24.
TEST_F(Files, ConfigSaysWhetherATextBeginsWithASpaceForByteLevelClasses) {
  const auto put = [&](bool space) {
    Parts parts;
    parts.model =
        R"({"type": "BPE", "vocab": {"a": 0, "\u0120": 1, "\u0120a": 2, "<s>": 3, "</s>": 4, "<x>": 5},
            "merges": ["\u0120 a"]})";
    parts.pre_tokenizer =
        Json{{"type", "ByteLevel"}, {"add_prefix_space", space}, {"use_regex", true}}.dump();
    write("tokenizer.json", to_json(parts));
  };
  const auto with = [&](const std::string& config) {
    write("tokenizer_config.json", config);
    return ids("a");
  };
  put(false);
  EXPECT_EQ(with(R"({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true})"), (Ids{2}));
  EXPECT_EQ(with(R"({"tokenizer_class": "RobertaTokenizerFast", "add_prefix_space": true})"),
            (Ids{2}));
  EXPECT_EQ(with(R"({"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": true})"),
            (Ids{0}));
  EXPECT_EQ(with(R"({"tokenizer_class": "RobertaTokenizer", "cls_token": "<x>"})"), (Ids{5, 0, 4}));
  put(true);
  EXPECT_EQ(with(R"({"tokenizer_class": "GPT2Tokenizer"})"), (Ids{0}));
  EXPECT_EQ(with("{}"), (Ids{2}));
  write("config.json", R"({"model_type": "gpt_bigcode"})");
  EXPECT_EQ(with(R"({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": false})"), (Ids{2}));
  write("config.json", R"({"model_type": "gpt2"})");
  EXPECT_EQ(with(R"({"add_prefix_space": false})"), (Ids{0}));
}

TEST_F(Files, SpecialTokensInATextAreTextWhereConfigSaysSo) {
  write("tokenizer.json", kLetters);
  write("tokenizer_config.json",
        R"({"added_tokens_decoder": {"7": {"content": "a<b", "special": true},
      "8": {"content": "<other>", "special": false}}, "split_special_tokens": true})");
  EXPECT_EQ(ids("a<b"), (Ids{0}));
  EXPECT_EQ(ids("a<other>"), (Ids{1, 8}));
  write("tokenizer_config.json",
        R"({"added_tokens_decoder": {"7": {"content": "a<b", "special": true}},
      "split_special_tokens": false})");
  EXPECT_EQ(ids("a<b"), (Ids{7}));
}

TEST_F(Files, ConfigAddsTokensToTokenizerJson) {
  write("tokenizer.json", kLetters);
  EXPECT_EQ(ids("a<new>b"), (Ids{0}));
  write("tokenizer_config.json", R"({"added_tokens_decoder": {"90": {"content": "<new>"},
      "8": {"content": "<other>", "special": false}}, "eos_token": "<x>"})");
  // In the order of their numbers, behind the vocabulary, or as the vocabulary has them.
  EXPECT_EQ(ids("a<new>b<other><x>"), (Ids{1, 8, 4, 7, 6}));
  for (const char* extra :
       {R"({"extra_special_tokens": ["<new>"]})",
        R"({"extra_special_tokens": {"new_token": "<new>"}})",
        R"({"additional_special_tokens": ["[UNK]", "<new>"]})", R"({"pad_token": "<new>"})"}) {
    write("tokenizer_config.json", extra);
    EXPECT_EQ(ids("a<new>b"), (Ids{1, 7, 4})) << extra;
  }
  write("tokenizer_config.json", "{}");
  write("special_tokens_map.json", R"({"additional_special_tokens": ["<new>"]})");
  EXPECT_EQ(ids("a<new>b"), (Ids{1, 7, 4}));
}

TEST_F(Files, SayAtWhichEndTextsAreCut) {
  write("tokenizer.json", kLetters);
  EXPECT_EQ((*open())->truncation_side(), TruncationSide::kLeft);
  write("tokenizer_config.json", R"({"truncation_side": "right"})");
  EXPECT_EQ((*open())->truncation_side(), TruncationSide::kRight);
}

// transformers 5 leaves these keys aside where there is a tokenizer.json, whose post_processor says
// it.
TEST_F(Files, ATokenizerJsonSaysItselfWhichTokensBeginAndEndAText) {
  Parts parts;
  parts.model = R"({"type": "BPE", "vocab": {"a": 0, "<s>": 1, "</s>": 2}, "merges": []})";
  parts.post_processor =
      R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
      {"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {"<s>": {"ids": [1]}}})";
  write("tokenizer.json", to_json(parts));
  for (const char* config :
       {"{}", R"({"add_bos_token": false, "add_eos_token": true, "bos_token": "<s>",
                  "eos_token": "</s>"})"}) {
    write("tokenizer_config.json", config);
    EXPECT_EQ(ids("a"), (Ids{1, 0})) << config;
  }
}

}  // namespace
}  // namespace tessera::tokenizer
