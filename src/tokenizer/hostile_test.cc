#include <fmt/format.h>

#include "tokenizer/testing.h"

// Damaged and malicious files: each gives one sentence that says what is wrong.
namespace tessera::tokenizer {
namespace {

constexpr const char* kModel = R"({"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []})";

std::string error_with(const std::string& key, const std::string& value) {
  return load_error(fmt::format(R"({{"model": {}, "{}": {}}})", kModel, key, value));
}

std::string model_error(const std::string& model) {
  return load_error(R"({"model": )" + model + "}");
}

TEST(Hostile, ReportsWhatIsNoJsonObject) {
  EXPECT_NE(load_error("").find("expected JSON"), std::string::npos);
  EXPECT_NE(load_error("{\"model\": ").find("expected JSON"), std::string::npos);
  EXPECT_NE(load_error("{\"a\": \"\xFF\"}").find("expected JSON"), std::string::npos);
  EXPECT_NE(load_error(R"({"a": "\ud800"})").find("expected JSON"), std::string::npos);
  EXPECT_EQ(load_error("[]"), "tokenizer.json: expected an object, found an array");
  EXPECT_EQ(load_error("{}"), "tokenizer.json: model: expected an object, found nothing");
}

TEST(Hostile, SurvivesDeepNesting) {
  const std::string deep(200000, '[');
  EXPECT_NE(load_error(deep).find("expected JSON"), std::string::npos);
  const std::string closed = deep + std::string(deep.size(), ']');
  EXPECT_EQ(error_with("normalizer", closed),
            "tokenizer.json: normalizer: expected an object, found an array");
  std::string sequence = R"({"type": "NFC"})";
  for (int i = 0; i < 1000; ++i) {
    sequence = R"({"type": "Sequence", "normalizers": [)" + sequence + "]}";
  }
  EXPECT_NE(error_with("normalizer", sequence).find("expected at most 32 nested sequences"),
            std::string::npos);
}

TEST(Hostile, NamesTypesThatAreUnknown) {
  EXPECT_EQ(model_error(R"({"type": "Nope", "vocab": []})"),
            "tokenizer.json: model: the model type \"Nope\" is not supported");
  const auto made = Tokenizer::from_json(R"({"model": {"type": "Nope"}})", "t");
  EXPECT_EQ(made.status().code(), StatusCode::kUnsupported);
  EXPECT_EQ(error_with("normalizer", R"({"type": "Nope"})"),
            "tokenizer.json: normalizer: the normalizer type \"Nope\" is not supported");
  EXPECT_EQ(
      error_with("pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [{"type": "Nope"}]})"),
      "tokenizer.json: pre_tokenizer.pretokenizers[0]: the pre-tokenizer type \"Nope\" is not "
      "supported");
  EXPECT_EQ(error_with("post_processor", R"({"type": "Nope"})"),
            "tokenizer.json: post_processor: the post-processor type \"Nope\" is not supported");
  EXPECT_EQ(error_with("decoder", R"({"type": "CTC"})"),
            "tokenizer.json: decoder: the decoder type \"CTC\" is not supported");
}

TEST(Hostile, ReportsWrongTypesAndMissingKeys) {
  EXPECT_EQ(error_with("normalizer", "3"),
            "tokenizer.json: normalizer: expected an object, found 3");
  EXPECT_EQ(error_with("normalizer", "{}"),
            "tokenizer.json: normalizer.type: expected a string, found nothing");
  EXPECT_EQ(error_with("normalizer", R"({"type": "Sequence"})"),
            "tokenizer.json: normalizer.normalizers: expected an array, found nothing");
  EXPECT_EQ(error_with("normalizer", R"({"type": "Sequence", "normalizers": [null]})"),
            "tokenizer.json: normalizer.normalizers[0]: expected an object, found nothing");
  EXPECT_EQ(error_with("normalizer", R"({"type": "Strip", "strip_left": "yes"})"),
            "tokenizer.json: normalizer.strip_left: expected true or false, found \"yes\"");
  EXPECT_EQ(error_with("pre_tokenizer", R"({"type": "Split", "behavior": "Isolated"})"),
            "tokenizer.json: pre_tokenizer.pattern: expected {\"String\": text} or {\"Regex\": "
            "pattern}, found nothing");
  EXPECT_EQ(error_with("pre_tokenizer", R"({"type": "Metaspace", "replacement": ""})"),
            "tokenizer.json: pre_tokenizer.replacement: expected one character, found \"\"");
  EXPECT_EQ(error_with("decoder", R"({"type": "Strip", "content": " ", "start": -1})"),
            "tokenizer.json: decoder.start: expected an integer from 0 to 2147483647, found -1");
  EXPECT_EQ(error_with("post_processor", R"({"type": "BertProcessing", "cls": ["a", 0]})"),
            "tokenizer.json: post_processor.sep: expected [token, id], found nothing");
  EXPECT_EQ(error_with("post_processor",
                       R"({"type": "BertProcessing", "cls": ["a", 0], "sep": ["x", 7]})"),
            "tokenizer.json: post_processor: expected ids of special tokens below 2, the size of "
            "the vocabulary, found 7");
  EXPECT_EQ(error_with("post_processor", R"({"type": "TemplateProcessing", "single": [3]})"),
            "tokenizer.json: post_processor.single[0]: expected {\"Sequence\": ...} or "
            "{\"SpecialToken\": ...}, found 3");
  // Each sequence once: the fuzzer's template without "A" said it had truncated what it left out.
  const std::string a = R"({"Sequence": {"id": "A"}})";
  const std::string b = R"({"Sequence": {"id": "B"}})";
  const auto of_template = [](const std::string& single, const std::string& pair) {
    return error_with(
        "post_processor",
        fmt::format(R"({{"type": "TemplateProcessing", "single": [{}], "pair": [{}]}})", single,
                    pair));
  };
  const std::string where = "tokenizer.json: post_processor.";
  EXPECT_EQ(of_template(a + "," + b, ""),
            where + "single: expected the sequence \"B\" not at all, found it 1 times");
  EXPECT_EQ(of_template("", ""),
            where + "single: expected the sequence \"A\" once, found it 0 times");
  EXPECT_EQ(of_template(a, a + "," + b + "," + a),
            where + "pair: expected the sequence \"A\" once, found it 2 times");
  EXPECT_EQ(of_template(a, a), where + "pair: expected the sequence \"B\" once, found it 0 times");
  EXPECT_EQ(error_with("added_tokens", R"([{"id": 5}])"),
            "tokenizer.json: added_tokens[0].content: expected a string, found nothing");
}

TEST(Hostile, ReportsBadVocabularies) {
  const auto vocabulary = [](const char* vocab) {
    return model_error(fmt::format(R"({{"type": "BPE", "vocab": {}, "merges": []}})", vocab));
  };
  EXPECT_EQ(vocabulary("[]"), "tokenizer.json: model.vocab: expected an object, found an array");
  EXPECT_EQ(vocabulary(R"({"a": "0"})"),
            "tokenizer.json: model.vocab.a: expected an integer from 0 to 65600, found \"0\"");
  EXPECT_EQ(vocabulary(R"({"a": -1})"),
            "tokenizer.json: model.vocab.a: expected an integer from 0 to 65600, found -1");
  EXPECT_EQ(vocabulary(R"({"a": 4294967295})"),
            "tokenizer.json: model.vocab.a: expected an integer from 0 to 65600, found 4294967295");
  EXPECT_EQ(vocabulary(R"({"a": 18446744073709551615})"),
            "tokenizer.json: model.vocab.a: expected an integer from 0 to 65600, found "
            "18446744073709551615");
  EXPECT_EQ(vocabulary(R"({"a": 1.5})"),
            "tokenizer.json: model.vocab.a: expected an integer from 0 to 65600, found 1.5");
  EXPECT_EQ(vocabulary(R"({"a": 3, "b": 3})"),
            "tokenizer.json: model.vocab.b: expected an id of its own, found 3, which \"a\" has");
  EXPECT_EQ(vocabulary("{}"), "") << "an empty vocabulary is no damage";
}

TEST(Hostile, ReportsBadMerges) {
  const auto merges = [](const char* list) {
    return model_error(
        fmt::format(R"({{"type": "BPE", "vocab": {{"a": 0, "b": 1}}, "merges": {}}})", list));
  };
  EXPECT_EQ(merges("null"), "tokenizer.json: model.merges: expected an array, found nothing");
  EXPECT_EQ(merges(R"(["a q"])"),
            "tokenizer.json: model.merges[0]: expected tokens of the vocabulary, found \"q\"");
  EXPECT_EQ(merges(R"([["a", "b"]])"),
            "tokenizer.json: model.merges[0]: expected tokens of the vocabulary, found \"ab\"");
  EXPECT_EQ(merges(R"(["ab"])"),
            "tokenizer.json: model.merges[0]: expected two tokens, as \"a b\" or [\"a\", \"b\"], "
            "found \"ab\"");
  EXPECT_EQ(merges(R"(["a  b"])"),
            "tokenizer.json: model.merges[0]: expected two tokens, as \"a b\" or [\"a\", \"b\"], "
            "found \"a  b\"");
  EXPECT_EQ(merges(R"([["a"]])"),
            "tokenizer.json: model.merges[0]: expected two tokens, as \"a b\" or [\"a\", \"b\"], "
            "found an array");
  EXPECT_EQ(merges(R"([["a", 3]])"),
            "tokenizer.json: model.merges[0][1]: expected a string, found 3");
  EXPECT_EQ(merges("[3]"),
            "tokenizer.json: model.merges[0]: expected two tokens, as \"a b\" or [\"a\", \"b\"], "
            "found 3");
}

TEST(Hostile, ReportsAddedTokensThatCollide) {
  EXPECT_EQ(error_with("added_tokens", R"([{"id": 0, "content": "<x>"}])"),
            "tokenizer.json: added_tokens[0].id: expected an id of its own for \"<x>\", found 0, "
            "which \"a\" has");
  EXPECT_EQ(
      error_with("added_tokens", R"([{"id": 9, "content": "a"}])"),
      "tokenizer.json: added_tokens[0].id: expected 0, the id of \"a\" in the vocabulary, found 9");
  EXPECT_EQ(error_with("added_tokens", R"([{"id": 5, "content": "x"}, {"id": 5, "content": "y"}])"),
            "tokenizer.json: added_tokens[1].id: expected an id of its own for \"y\", found 5, "
            "which \"x\" has");
  EXPECT_EQ(
      error_with("added_tokens", R"([{"id": 5, "content": "x"}, {"id": 6, "content": "x"}])"),
      "tokenizer.json: added_tokens[1].id: expected 5, the id given to \"x\" before, found 6");
  EXPECT_NE(error_with("added_tokens", R"([{"id": 2147483647, "content": "x"}])"), "");
  EXPECT_NE(error_with("added_tokens", R"([{"id": -5, "content": "x"}])"), "");
}

std::string encode_error(const Parts& parts, std::string_view text) {
  const auto made = load(parts);
  if (!made.ok()) return made.status().message();
  const auto encoding = (*made)->encode({text});
  return encoding.ok() ? "" : encoding.status().message();
}

TEST(Hostile, ReportsBadAndExplodingPatterns) {
  Parts parts;
  parts.model = kModel;
  const auto with = [&](const std::string& pattern) {
    parts.pre_tokenizer = fmt::format(
        R"({{"type": "Split", "behavior": "Isolated", "pattern": {{"Regex": "{}"}}}})", pattern);
    return encode_error(parts, std::string(100, 'a') + "b");
  };
  const std::string place = "tokenizer.json: pre_tokenizer.pattern.Regex: ";
  EXPECT_EQ(with("(a"),
            place + "expected a regular expression, found \"(a\": missing closing parenthesis");
  EXPECT_NE(with("\\\\p{Nope}").find(place), std::string::npos);
  EXPECT_EQ(with("[a&&b]"), place + "an intersection (&&) of character classes is not supported");
  EXPECT_EQ(with("[a[b]]"), place + "a character class inside another is not supported");
  EXPECT_EQ(
      with("[a"),
      place +
          "expected a regular expression, found \"[a\": missing terminating ] for character class");
  EXPECT_NE(with("[[:alpha").find(place), std::string::npos);
  EXPECT_NE(with("a\\\\"), "");
  EXPECT_NE(with(std::string(5000, '(') + std::string(5000, ')')).find(place), std::string::npos);
  EXPECT_NE(with(std::string(100000, 'a')).find("at most 65536 bytes"), std::string::npos);
  EXPECT_EQ(
      with("(a+)+(?=c)"),
      "the pattern \"(a+)+(?=c)\" cannot be matched at byte 0 of the text: match limit exceeded");
  EXPECT_EQ(with("(?:a|aa)+$(?<=c)"),
            "the pattern \"(?:a|aa)+$(?<=c)\" cannot be matched at byte 0 of the text: match limit "
            "exceeded");
}

TEST(Hostile, StopsTextThatGrowsWithoutBound) {
  Parts parts;
  parts.model = kModel;
  std::string steps;
  for (int i = 0; i < 64; ++i) {
    steps += std::string(i == 0 ? "" : ", ") +
             R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"})";
  }
  parts.normalizer = R"({"type": "Sequence", "normalizers": [)" + steps + "]}";
  EXPECT_NE(encode_error(parts, "a").find("expected text of at most 268435456 bytes"),
            std::string::npos);
}

TEST(Hostile, ReportsAnUnknownTokenWithoutAnId) {
  Parts parts;
  parts.model = R"({"type": "BPE", "unk_token": "?", "vocab": {"a": 0}, "merges": []})";
  EXPECT_EQ(encode_error(parts, "a"), "");
  EXPECT_EQ(encode_error(parts, "b"),
            "expected the unknown token \"?\" in the vocabulary, found none");
  parts.model = R"({"type": "WordPiece", "unk_token": "?", "vocab": {"a": 0}})";
  EXPECT_EQ(encode_error(parts, "b"),
            "expected the unknown token \"?\" in the vocabulary, found none");
}

// What a message quotes is on its line, and does not fill it for ever.
TEST(Hostile, MessagesAreOneSentence) {
  Parts parts;
  parts.model = R"({"type": "Unigram", "vocab": [["a", -1]]})";
  EXPECT_EQ(
      encode_error(parts, "\r\n\x1B[2J"),
      "expected a tokenizer with an unknown token for text outside its vocabulary, found none "
      "(\"\\x0d\\n\\x1b[2J\")");
  EXPECT_EQ(model_error(R"({"type": "BPE", "vocab": {"a\nb": -1}, "merges": []})"),
            "tokenizer.json: model.vocab.a\\nb: expected an integer from 0 to 65600, found -1");
  const std::string key(100000, 'k');
  const std::string error =
      model_error(R"({"type": "BPE", "vocab": {")" + key + R"(": -1}, "merges": []})");
  EXPECT_LT(error.size(), 1000u);
  EXPECT_TRUE(error.ends_with("kkk..."));
}

TEST(Hostile, EmptyTextGivesOnlySpecialTokens) {
  Parts parts;
  parts.model = kModel;
  const auto made = load(parts);
  ASSERT_TRUE(made.ok()) << made.status().message();
  const auto encoding = (*made)->encode({""});
  ASSERT_TRUE(encoding.ok());
  EXPECT_TRUE(encoding->ids.empty() && encoding->type_ids.empty());
  EXPECT_EQ(*(*made)->decode({}, DecodeSpecial::kSkip), "");
}

TEST(Hostile, ReportsIdsOutsideTheVocabulary) {
  Parts parts;
  parts.model = kModel;
  const auto made = load(parts);
  ASSERT_TRUE(made.ok()) << made.status().message();
  for (const int32_t id : {-1, 2, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ((*made)->decode({0, id}, DecodeSpecial::kKeep).status().message(),
              fmt::format("expected token ids from 0 to 1, found {}", id));
    EXPECT_EQ((*made)->token_of(id), "");
  }
}

// Every prefix of a good file, and every file with one byte changed, loads or gives a message.
TEST(Hostile, SurvivesDamagedFiles) {
  Parts parts;
  parts.model = R"({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]})";
  parts.normalizer = R"({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})";
  parts.pre_tokenizer = R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"})";
  parts.post_processor =
      R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}},
      {"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {"x": {"ids": [2]}}})";
  parts.decoder = R"({"type": "Strip", "content": " ", "start": 1, "stop": 0})";
  parts.added_tokens = R"([{"id": 3, "content": "<x>", "lstrip": true}])";
  const std::string good = to_json(parts);
  ASSERT_EQ(load_error(good), "");
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_NE(load_error(good.substr(0, length)), "") << length;
  }
  for (size_t i = 0; i < good.size(); ++i) {
    for (const char byte : {'0', '"', '{', ']', ',', '\x80', '-', 'a'}) {
      std::string bad = good;
      bad[i] = byte;
      const auto made = Tokenizer::from_json(bad, "t");
      if (!made.ok()) {
        EXPECT_FALSE(made.status().message().empty());
        continue;
      }
      (void)(*made)->encode({"a b  ab<x>"});
      (void)(*made)->decode({0, 1, 2}, DecodeSpecial::kSkip);
    }
  }
}

TEST(Hostile, MissingFileIsNotFound) {
  const auto made = Tokenizer::open("/nonexistent/directory");
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace tessera::tokenizer
