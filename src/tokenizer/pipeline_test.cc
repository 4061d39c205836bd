#include "tokenizer/testing.h"

// The expected values are what version 0.23.3 of the `tokenizers` library gives.
namespace tessera::tokenizer {
namespace {

std::string normalized(const std::string& normalizer, std::string_view text) {
  Parts parts;
  parts.model = character_model();
  parts.normalizer = normalizer;
  std::string joined;
  for (const std::string& token : tokens_of(parts, text)) joined += token;
  return joined;
}

TEST(Normalizers, ChangeTheText) {
  EXPECT_EQ(normalized(R"({"type": "Lowercase"})", "AbC \xC3\x89"), "abc \xC3\xA9");
  EXPECT_EQ(normalized(R"({"type": "NFC"})", "e\xCC\x81"), "\xC3\xA9");
  EXPECT_EQ(normalized(R"({"type": "NFKC"})", "\xEF\xAC\x81\xC2\xB2"), "fi2");
  EXPECT_EQ(normalized(R"({"type": "Sequence", "normalizers": [{"type": "NFD"},
                          {"type": "StripAccents"}]})",
                       "\xC3\xA9t\xC3\xA9"),
            "ete");
  EXPECT_EQ(normalized(R"({"type": "Sequence", "normalizers": [{"type": "NFKD"},
                          {"type": "StripAccents"}, {"type": "Lowercase"}]})",
                       "\xC3\x89\xEF\xBC\xA1"),
            "ea");
  EXPECT_EQ(normalized(R"({"type": "Strip", "strip_left": true, "strip_right": false})", " \ta "),
            "a ");
  EXPECT_EQ(normalized(R"({"type": "Strip"})", " \ta\xC2\xA0 "), "a");
  EXPECT_EQ(normalized(R"({"type": "Prepend", "prepend": "_"})", "a"), "_a");
  EXPECT_EQ(normalized(R"({"type": "Prepend", "prepend": "_"})", ""), "");
}

TEST(Normalizers, ReplaceTakesTextOrPattern) {
  EXPECT_EQ(normalized(R"({"type": "Replace", "pattern": {"String": "a.b"}, "content": "$0"})",
                       "a.b axb"),
            "$0 axb");
  EXPECT_EQ(normalized(R"({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})",
                       "a   b c"),
            "a b c");
  EXPECT_EQ(
      normalized(R"({"type": "Replace", "pattern": {"Regex": "b*"}, "content": "x"})", "abbc"),
      "xaxcx");
  EXPECT_EQ(normalized(R"({"type": "Replace", "pattern": {"String": ""}, "content": "x"})", "abc"),
            "xaxbxcx");
  EXPECT_EQ(
      normalized(R"({"type": "Replace", "pattern": {"Regex": "(?m)."}, "content": "x"})", "a\nb"),
      "xxx");
}

TEST(Normalizers, BertCleansSplitsIdeographsAndStripsAccents) {
  const auto bert = [](const char* strip, const char* lower) {
    return std::string(
               R"({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": )") +
           strip + R"(, "lowercase": )" + lower + "}";
  };
  EXPECT_EQ(normalized(bert("null", "true"), std::string_view("A\0\xC3\x89\tb\x7F", 7)), "ae b");
  EXPECT_EQ(normalized(bert("null", "false"), "\xC3\xA9"), "\xC3\xA9");
  EXPECT_EQ(normalized(bert("true", "false"),
                       "\xC3\x89"
                       "A"),
            "EA");
  EXPECT_EQ(normalized(bert("false", "true"), "\xC3\x89"), "\xC3\xA9");
  EXPECT_EQ(normalized(bert("null", "true"),
                       "a\xE4\xB8\xAD"
                       "b"),
            "a <unk> b");
}

TEST(PreTokenizers, CutAtCharacters) {
  EXPECT_EQ(pieces_of(R"({"type": "Whitespace"})", "a_b's  c-."), "a_b|'|s|c|-.|");
  EXPECT_EQ(pieces_of(R"({"type": "WhitespaceSplit"})", " a's\n b "), "a's|b|");
  EXPECT_EQ(pieces_of(R"({"type": "BertPreTokenizer"})", "a's  b$."), "a|'|s|b|$|.|");
  EXPECT_EQ(pieces_of(R"({"type": "Punctuation"})", "a.. b"), "a|.|.| b|");
  EXPECT_EQ(pieces_of(R"({"type": "Punctuation", "behavior": "Contiguous"})", "a.. b"), "a|..| b|");
  EXPECT_EQ(pieces_of(R"({"type": "Digits", "individual_digits": true})", "a12b"), "a|1|2|b|");
  EXPECT_EQ(pieces_of(R"({"type": "Digits", "individual_digits": false})", "a12b"), "a|12|b|");
  EXPECT_EQ(pieces_of(R"({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"},
                         {"type": "Punctuation"}]})",
                      "a, b"),
            "a|,|b|");
}

std::string split(const char* behavior, const char* invert, std::string_view text) {
  return pieces_of(std::string(R"({"type": "Split", "pattern": {"Regex": "-"}, "behavior": ")") +
                       behavior + R"(", "invert": )" + invert + "}",
                   text);
}

TEST(PreTokenizers, SplitHasFiveBehaviours) {
  EXPECT_EQ(split("Isolated", "false", "-a--b-"), "-|a|-|-|b|-|");
  EXPECT_EQ(split("Removed", "false", "-a--b-"), "a|b|");
  EXPECT_EQ(split("MergedWithPrevious", "false", "-a--b-"), "-|a-|-|b-|");
  EXPECT_EQ(split("MergedWithNext", "false", "-a--b-"), "-a|-|-b|-|");
  EXPECT_EQ(split("Contiguous", "false", "-a--b-"), "-|a|--|b|-|");
  EXPECT_EQ(split("Removed", "true", "-a--b-"), "-|-|-|-|");
}

TEST(PreTokenizers, MetaspaceMarksWords) {
  const std::string mark = "\xE2\x96\x81";
  const auto metaspace = [](const char* rest) {
    return std::string(R"({"type": "Metaspace", "replacement": "▁")") + rest + "}";
  };
  EXPECT_EQ(pieces_of(metaspace(R"(, "prepend_scheme": "always", "split": true)"), "a  b"),
            mark + "a|" + mark + "|" + mark + "b|");
  EXPECT_EQ(pieces_of(metaspace(R"(, "prepend_scheme": "never")"), "a b"), "a|" + mark + "b|");
  EXPECT_EQ(pieces_of(metaspace(R"(, "add_prefix_space": false, "str_rep": "▁")"), "a b"),
            "a|" + mark + "b|");
  EXPECT_EQ(pieces_of(metaspace(R"(, "add_prefix_space": true)"), " b"), mark + "b|");
  EXPECT_EQ(pieces_of(metaspace(R"(, "split": false)"), "a b"), mark + "a" + mark + "b|");
  // Only the piece where the input begins counts as the first.
  EXPECT_EQ(pieces_of(metaspace(R"(, "prepend_scheme": "first")"), "a"), mark + "a|");
  EXPECT_EQ(pieces_of(metaspace(R"(, "prepend_scheme": "first")"), "  a", R"({"type": "Strip"})"),
            "a|");
}

TEST(PreTokenizers, ByteLevelCutsAsGpt2Does) {
  const std::string space = "\xC4\xA0";  // how the bytes of ' ' and '\n' are spelled
  const std::string line = "\xC4\x8A";
  const auto byte_level = [](const char* prefix, const char* regex) {
    return std::string(R"({"type": "ByteLevel", "add_prefix_space": )") + prefix +
           R"(, "use_regex": )" + regex + "}";
  };
  EXPECT_EQ(pieces_of(byte_level("false", "true"), "I'll  go\n now 12ab!?  "),
            "I|'ll|" + space + "|" + space + "go|" + line + "|" + space + "now|" + space +
                "12|ab|!?|" + space + space + "|");
  EXPECT_EQ(pieces_of(byte_level("true", "false"), "a b"), space + "a" + space + "b|");
  EXPECT_EQ(pieces_of(byte_level("true", "true"), " a"), space + "a|");
}

TEST(PreTokenizers, SplitReadsOnigurumaPatterns) {
  const auto split = [](const char* pattern, std::string_view text) {
    return pieces_of(
        std::string(R"({"type": "Split", "behavior": "Isolated", "pattern": {"Regex": ")") +
            pattern + "\"}}",
        text);
  };
  EXPECT_EQ(split("(?i:'s|'t)|\\\\p{N}{1,3}| ?\\\\p{L}+", "I'S 1234 x"), "I|'S| |123|4| x|");
  EXPECT_EQ(split("\\\\s+(?!\\\\S)|\\\\s", "a   b"), "a|  | |b|");
  EXPECT_EQ(split("[^\\\\s\\\\w]", "a-b"), "a|-|b|");
  EXPECT_EQ(split("\\\\h", "xay"), "x|a|y|");
  EXPECT_EQ(split("\\\\b", "ab -c"), "ab| -|c|");
}

TEST(PostProcessors, PlaceSpecialTokens) {
  Parts parts;
  parts.model = R"({"type": "BPE", "merges": [], "vocab": {"a": 0, "b": 1, "C": 2, "S": 3}})";
  const auto pair = [&](SpecialTokens special) {
    const auto made = load(parts);
    EXPECT_TRUE(made.ok()) << made.status().message();
    return *(*made)->encode({"a", "b"}, {.special = special});
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(pair(SpecialTokens::kAdd).ids, Ids({0, 1}));
  EXPECT_EQ(pair(SpecialTokens::kAdd).type_ids, Ids({0, 1}));

  parts.post_processor = R"({"type": "BertProcessing", "sep": ["S", 3], "cls": ["C", 2]})";
  EXPECT_EQ(pair(SpecialTokens::kAdd).ids, Ids({2, 0, 3, 1, 3}));
  EXPECT_EQ(pair(SpecialTokens::kAdd).type_ids, Ids({0, 0, 0, 1, 1}));
  EXPECT_EQ(pair(SpecialTokens::kOmit).type_ids, Ids({0, 1}));

  parts.post_processor = R"({"type": "RobertaProcessing", "sep": ["S", 3], "cls": ["C", 2]})";
  EXPECT_EQ(pair(SpecialTokens::kAdd).ids, Ids({2, 0, 3, 3, 1, 3}));
  EXPECT_EQ(pair(SpecialTokens::kAdd).type_ids, Ids(6, 0));
  EXPECT_EQ(pair(SpecialTokens::kOmit).type_ids, Ids({0, 0}));

  parts.post_processor = R"({"type": "Sequence", "processors": [{"type": "ByteLevel"},
      {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 3}}],
       "pair": [{"Sequence": {"id": "B", "type_id": 4}}, {"SpecialToken": {"id": "x", "type_id": 9}},
                {"Sequence": {"id": "A", "type_id": 5}}],
       "special_tokens": {"x": {"id": "x", "ids": [2, 3], "tokens": ["C", "S"]}}}]})";
  EXPECT_EQ(pair(SpecialTokens::kAdd).ids, Ids({1, 2, 3, 0}));
  EXPECT_EQ(pair(SpecialTokens::kAdd).type_ids, Ids({4, 9, 9, 5}));
  EXPECT_EQ(pair(SpecialTokens::kOmit).type_ids, Ids({4, 5}));
}

std::string decoded(const std::string& decoder, const Strings& tokens) {
  Parts parts;
  std::string vocabulary;
  std::vector<int32_t> ids;
  for (const std::string& token : tokens) {
    const auto id = static_cast<int32_t>(ids.size());
    vocabulary += (id == 0 ? "\"" : ", \"") + token + "\": " + std::to_string(id);
    ids.push_back(id);
  }
  parts.model = R"({"type": "BPE", "merges": [], "vocab": {)" + vocabulary + "}}";
  parts.decoder = decoder;
  const auto made = load(parts);
  if (!made.ok()) return "error: " + made.status().message();
  const auto text = (*made)->decode(ids, DecodeSpecial::kKeep);
  return text.ok() ? *text : "error: " + text.status().message();
}

TEST(Decoders, JoinTokens) {
  EXPECT_EQ(decoded("null", {"a", "b", "ab"}), "a b ab");
  EXPECT_EQ(decoded(R"({"type": "WordPiece", "prefix": "##", "cleanup": true})",
                    {"##a", "##b", "do", "not", " do not", "'s", ".", "n't"}),
            "##ab do not  don't's.n't");
  EXPECT_EQ(decoded(R"({"type": "BPEDecoder", "suffix": "</w>"})", {"a</w>", "b", "c</w>"}),
            "a bc");
  EXPECT_EQ(decoded(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"})",
                    {"▁▁a", "▁b"}),
            "a b");
  EXPECT_EQ(decoded(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"})",
                    {"▁▁a", "▁b"}),
            "  a b");
  EXPECT_EQ(decoded(R"({"type": "Strip", "content": " ", "start": 1, "stop": 0})",
                    {"", "  a  ", "a", "  "}),
            " a  a ");
  EXPECT_EQ(decoded(R"({"type": "ByteLevel"})", {"Ġa", "é<é 😀", "Ã"}), " aé<é 😀\xEF\xBF\xBD")
      << "a token of other characters stands for its own bytes";
}

TEST(Decoders, BytesThatFormNoCharacterBecomeReplacements) {
  const std::string fallback = R"({"type": "ByteFallback"})";
  EXPECT_EQ(decoded(fallback, {"a", "<0xC3>", "<0xA9>", "b"}), "aéb");
  EXPECT_EQ(decoded(fallback, {"<0xC3>", "<0xA9>", "<0xC4>"}),
            "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(decoded(fallback, {"<0xC3>", "<0xa9>", "<0x 9>", "<0xZZ>"}), "é<0x 9><0xZZ>");
  EXPECT_EQ(decoded(R"({"type": "Sequence", "decoders": [
                       {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                       {"type": "ByteFallback"}, {"type": "Fuse"},
                       {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})",
                    {"▁▁a", "<0x62>", "▁c"}),
            " ab c");
}

std::string added(const char* content, int id, const char* flags) {
  return std::string(R"({"content": ")") + content + R"(", "id": )" + std::to_string(id) +
         R"(, "normalized": false, "special": false)" + flags + "}";
}

TEST(AddedTokens, AreFoundInTheText) {
  Parts parts;
  parts.model = R"({"type": "BPE", "unk_token": "?", "merges": [["a", "b"]],
                    "vocab": {"?": 0, "a": 1, "b": 2, "ab": 3, " ": 4, "h": 5}})";
  parts.added_tokens = "[" + added("ab", 3, R"(, "single_word": true)") + "]";
  EXPECT_EQ(tokens_of(parts, "ab aba ab-"), Strings({"ab", " ", "ab", "a", " ", "ab", "?"}));
  parts.added_tokens = "[" + added("<x>", 6, R"(, "lstrip": true, "rstrip": true)") + "," +
                       added("  y", 7, "") + "]";
  EXPECT_EQ(tokens_of(parts, "a  <x>  y  <x> b"), Strings({"a", "<x>", "  y", "<x>", "b"}));
  parts.added_tokens = "[" + added("<x", 6, "") + "," + added("<x>", 7, "") + "]";
  EXPECT_EQ(tokens_of(parts, "<x><xa"), Strings({"<x>", "<x", "a"})) << "the longest counts";
  parts.normalizer = R"({"type": "Lowercase"})";
  parts.added_tokens =
      "[" + added("<X>", 6, R"(, "normalized": true)") + "," + added("<Y>", 7, "") + "]";
  EXPECT_EQ(tokens_of(parts, "A<x><Y><y>"), Strings({"a", "<X>", "<Y>", "?", "?", "?"}));
}

TEST(AddedTokens, SpecialOnesCanBeSkipped) {
  Parts parts;
  parts.model = R"({"type": "BPE", "merges": [], "vocab": {"a": 0}})";
  parts.decoder = R"({"type": "Fuse"})";
  parts.added_tokens =
      "[" + added("<x>", 1, R"(, "special": true)") + "," + added("<y>", 5, "") + "]";
  const auto made = load(parts);
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ((*made)->vocabulary_size(), 6);
  EXPECT_EQ((*made)->id_of("<y>"), 5);
  EXPECT_EQ((*made)->id_of("zz"), std::nullopt);
  EXPECT_EQ((*made)->token_of(3), "");
  EXPECT_EQ(*(*made)->decode({1, 0, 5}, DecodeSpecial::kKeep), "<x>a<y>");
  EXPECT_EQ(*(*made)->decode({1, 0, 5}, DecodeSpecial::kSkip), "a<y>");
  EXPECT_EQ((*made)->decode({6}, DecodeSpecial::kSkip).status().message(),
            "expected token ids from 0 to 5, found 6");
}

}  // namespace
}  // namespace tessera::tokenizer
