#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <random>

#include "tokenizer/testing.h"

namespace tessera::tokenizer {
namespace {

TEST(Bpe, MergesTheLowestRankFirst) {
  Parts parts;
  parts.model = R"({"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "bc": 3, "ab": 4, "abc": 5},
                    "merges": ["#version: 0.2", "b c", "a b", "a bc"]})";
  EXPECT_EQ(tokens_of(parts, "abc"), Strings({"abc"}));
  EXPECT_EQ(tokens_of(parts, "abab"), Strings({"ab", "ab"}));
  EXPECT_EQ(tokens_of(parts, "axb"), Strings({"ab"})) << "without unk_token unknowns vanish";
}

TEST(Bpe, UnknownCharactersFuseOnRequest) {
  Parts parts;
  const std::string head =
      R"({"type": "BPE", "unk_token": "?", "merges": [], "vocab": {"?": 0, "a": 1}, "fuse_unk": )";
  parts.model = head + "false}";
  EXPECT_EQ(tokens_of(parts, "xya"), Strings({"?", "?", "a"}));
  parts.model = head + "true}";
  EXPECT_EQ(tokens_of(parts, "xyaz"), Strings({"?", "a", "?"}));
}

TEST(Bpe, FallsBackToBytesWhereAllHaveTokens) {
  Parts parts;
  parts.model = R"({"type": "BPE", "unk_token": "?", "byte_fallback": true, "merges": [],
                    "vocab": {"?": 0, "a": 1, "<0xC3>": 2, "<0xA9>": 3}})";
  EXPECT_EQ(tokens_of(parts, "a\xC3\xA9"), Strings({"a", "<0xC3>", "<0xA9>"}));
  EXPECT_EQ(tokens_of(parts,
                      "\xC3\xA8"
                      "a"),
            Strings({"?", "a"}));
}

TEST(Bpe, PrefixAndSuffixMarkThePlaceInAWord) {
  Parts parts;
  parts.model = R"({"type": "BPE", "continuing_subword_prefix": "##", "end_of_word_suffix": "</w>",
                    "vocab": {"a": 1, "##b": 2, "##b</w>": 3, "ab": 4, "abb</w>": 5},
                    "merges": ["a ##b", "ab ##b</w>"]})";
  EXPECT_EQ(tokens_of(parts, "abb"), Strings({"abb</w>"}));
}

TEST(Bpe, IgnoreMergesTakesWholeWords) {
  Parts parts;
  const std::string head =
      R"({"type": "BPE", "merges": [], "vocab": {"a": 0, "b": 1, "ab": 2, "Ġab": 3, "Ġ": 4}, )";
  parts.model = head + R"("ignore_merges": true})";
  EXPECT_EQ(tokens_of(parts, "ab"), Strings({"ab"}));
  parts.pre_tokenizer = R"({"type": "ByteLevel", "add_prefix_space": false})";
  EXPECT_EQ(tokens_of(parts, "ab ab"), Strings({"ab", "Ġab"}));
  parts.model = head + R"("ignore_merges": false})";
  EXPECT_EQ(tokens_of(parts, "ab ab"), Strings({"a", "b", "Ġ", "a", "b"}));
}

// Long words go through a queue, short ones through a scan; both must do what the definition says.
TEST(Bpe, EqualsTheDefinitionOnRandomWords) {
  const uint32_t seed = 20240117;
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937 random(seed);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  std::vector<std::string> tokens = {"a", "b", "c", "d"};
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  std::string merges;
  while (ranks.size() < 120) {
    const std::string left = tokens[below(tokens.size())];
    const std::string right = tokens[below(tokens.size())];
    if (left.size() + right.size() > 9 || ranks.contains({left, right})) continue;
    if (std::find(tokens.begin(), tokens.end(), left + right) == tokens.end()) {
      tokens.push_back(left + right);
    }
    merges += fmt::format("{}[\"{}\", \"{}\"]", ranks.empty() ? "" : ", ", left, right);
    ranks.emplace(std::pair(left, right), ranks.size());
  }
  std::string vocabulary;
  for (size_t i = 0; i < tokens.size(); ++i) {
    vocabulary += fmt::format("{}\"{}\": {}", i == 0 ? "" : ", ", tokens[i], i);
  }
  Parts parts;
  parts.model =
      fmt::format(R"({{"type": "BPE", "vocab": {{{}}}, "merges": [{}]}})", vocabulary, merges);
  const auto made = load(parts);
  ASSERT_TRUE(made.ok()) << made.status().message();
  for (const size_t length : {1, 2, 3, 7, 20, 39, 40, 41, 42, 100, 500}) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      Strings word;
      std::string text;
      for (size_t i = 0; i < length; ++i) word.push_back(tokens[below(4)]);
      for (const std::string& part : word) text += part;
      for (;;) {
        size_t best = ranks.size(), place = 0;
        for (size_t i = 0; i + 1 < word.size(); ++i) {
          const auto found = ranks.find({word[i], word[i + 1]});
          if (found != ranks.end() && found->second < best) best = found->second, place = i;
        }
        if (best == ranks.size()) break;
        word[place] += word[place + 1];
        word.erase(word.begin() + static_cast<int64_t>(place) + 1);
      }
      const auto encoding = (*made)->encode({text}, {.special = SpecialTokens::kOmit});
      ASSERT_TRUE(encoding.ok());
      Strings got;
      for (const int32_t id : encoding->ids) got.push_back((*made)->token_of(id));
      ASSERT_EQ(got, word) << text;
    }
  }
}

TEST(WordPiece, TakesTheLongestTokens) {
  Parts parts;
  parts.model = R"({"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 6,
                    "vocab": {"?": 0, "un": 1, "##aff": 2, "##a": 3, "##able": 4, "é": 5, "##é": 6, "una": 7}})";
  parts.pre_tokenizer = R"({"type": "WhitespaceSplit"})";
  EXPECT_EQ(tokens_of(parts, "unaff"), Strings({"?"})) << "longest first, without going back";
  EXPECT_EQ(tokens_of(parts, "un unable unéa"), Strings({"un", "?", "un", "##é", "##a"}));
  EXPECT_EQ(tokens_of(parts, "ééé éééa unx"),
            Strings({"é", "##é", "##é", "é", "##é", "##é", "##a", "?"}));
  EXPECT_EQ(tokens_of(parts, "éééééé ééééééé"),
            Strings({"é", "##é", "##é", "##é", "##é", "##é", "?"}))
      << "the limit counts characters";
}

TEST(Models, AreRecognisedWithoutAType) {
  Parts parts;
  parts.model = R"({"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]})";
  EXPECT_EQ(tokens_of(parts, "ab"), Strings({"ab"}));
  parts.model = R"({"vocab": {"[UNK]": 0, "a": 1}, "max_input_chars_per_word": 100})";
  EXPECT_EQ(tokens_of(parts, "a"), Strings({"a"}));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  Parts parts;
  parts.model = character_model();
  const auto made = load(parts);
  ASSERT_TRUE(made.ok());
  const auto message = [&](std::string_view text) {
    return (*made)->encode({text}).status().message();
  };
  EXPECT_EQ(message("ab\xFFzz"), "expected UTF-8, found byte 0xFF at offset 2 of the text");
  EXPECT_EQ(message("12345678\xC3"), "expected UTF-8, found byte 0xC3 at offset 8 of the text");
  EXPECT_EQ(message("\xED\xA0\x80"), "expected UTF-8, found byte 0xED at offset 0 of the text");
  EXPECT_EQ(message("a\xC0\x80"), "expected UTF-8, found byte 0xC0 at offset 1 of the text");
  EXPECT_EQ(message("\xF4\x90\x80\x80"), "expected UTF-8, found byte 0xF4 at offset 0 of the text");
  EXPECT_EQ((*made)->encode({"a", "\x80"}).status().message(),
            "expected UTF-8, found byte 0x80 at offset 0 of the second text");
}

}  // namespace
}  // namespace tessera::tokenizer
