#include "tokenizer/charsmap.h"

#include <fmt/format.h>

#include <random>

#include "tokenizer/charsmap_testing.h"
#include "tokenizer/testing.h"

namespace tessera::tokenizer {
namespace {

std::string parse_error(std::string_view bytes) {
  const auto map = CharsMap::parse(bytes);
  return map.ok() ? "" : map.status().message();
}

std::string normalized(const std::map<std::string, std::string>& rules, std::string_view text) {
  Parts parts;
  parts.model = R"({"type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": [["?", -9])";
  for (int byte = 0; byte < 256; ++byte) parts.model += fmt::format(R"(, ["<0x{:02X}>", 0])", byte);
  parts.model += "]}";
  parts.decoder = R"({"type": "ByteFallback"})";
  parts.normalizer = fmt::format(R"({{"type": "Precompiled", "precompiled_charsmap": "{}"}})",
                                 to_base64(charsmap_bytes(rules)));
  const auto made = load(parts);
  if (!made.ok()) return made.status().message();
  const auto encoding = (*made)->encode({text}, {.special = SpecialTokens::kOmit});
  if (!encoding.ok()) return encoding.status().message();
  return *(*made)->decode(encoding->ids, DecodeSpecial::kKeep);
}

TEST(CharsMap, FindsTheShortestAndTheLongestRule) {
  const auto map = CharsMap::parse(charsmap_bytes({{"a", "x"}, {"abc", "yy"}, {"\xC3\xA9", ""}}));
  ASSERT_TRUE(map.ok()) << map.status().message();
  EXPECT_EQ(map->shortest("abcd")->replacement, "x");
  EXPECT_EQ(map->shortest("abcd")->length, 1u);
  EXPECT_EQ(map->longest("abcd")->replacement, "yy");
  EXPECT_EQ(map->longest("abcd")->length, 3u);
  EXPECT_EQ(map->longest("abx")->length, 1u);
  EXPECT_EQ(map->longest("\xC3\xA9x")->replacement, "");
  EXPECT_FALSE(map->longest("b").has_value());
  EXPECT_FALSE(map->longest("").has_value());
  EXPECT_FALSE(map->longest(std::string_view("\0a", 2)).has_value());
}

// Facts of the `tokenizers` library: the rule of a beginning replaces a whole short grapheme.
TEST(CharsMap, NormalizesByGraphemeAndCharacter) {
  EXPECT_EQ(normalized({{"\xC3\xA9", "E"}}, "caf\xC3\xA9s"), "cafEs");
  EXPECT_EQ(normalized({{"e", "3"}}, "e\xCC\x81x"), "3x") << "e and its accent are one grapheme";
  EXPECT_EQ(normalized({{"e", "3"}}, "e\xCC\x81\xCC\x82\xCC\x83x"), "3\xCC\x81\xCC\x82\xCC\x83x");
  EXPECT_EQ(normalized({{"\r", " "}}, "a\r\nb\r"), "a b ");
  EXPECT_EQ(normalized({{"a", ""}}, "abab"), "bb");
}

TEST(CharsMap, ReportsDamage) {
  EXPECT_EQ(parse_error("abc"), "expected a character map of at least 4 bytes, found 3");
  for (const uint32_t size : {0u, 3u, 8u, 0xFFFFFFFCu}) {
    EXPECT_NE(parse_error(little_endian(size) + "1234").find("whole units in the 4 bytes"),
              std::string::npos)
        << size;
  }
  std::string good = charsmap_bytes({{"a", "x"}});
  EXPECT_EQ(parse_error(good), "");
  EXPECT_NE(parse_error(good.substr(0, good.size() - 2)).find("point at characters"),
            std::string::npos);
  EXPECT_NE(parse_error(good + "\xFF").find("expected replacements in UTF-8"), std::string::npos);
  // A root that ends a rule far outside.
  EXPECT_NE(parse_error(little_endian(4) + little_endian(0xFFFFFFFFu) + "x").find("that stays in"),
            std::string::npos);
}

TEST(CharsMap, EndsInACyclicTrie) {
  // Every unit is its own child under 'a'.
  std::string bytes = little_endian(4 * 256);
  for (uint32_t i = 0; i < 256; ++i) bytes += little_endian('a' << 10 | 'a');
  const auto map = CharsMap::parse(bytes + "x");
  ASSERT_TRUE(map.ok()) << map.status().message();
  EXPECT_FALSE(map->longest(std::string(1 << 20, 'a')).has_value());
}

TEST(CharsMap, SurvivesRandomBytes) {
  const uint32_t seed = 7;
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937 random(seed);
  const std::string good = charsmap_bytes({{"a", "x"}, {"abc", "yy"}, {"\xC3\xA9", "e"}});
  for (int round = 0; round < 2000; ++round) {
    std::string bad = good;
    for (int i = 0; i < 4; ++i) bad[random() % bad.size()] = static_cast<char>(random());
    const auto map = CharsMap::parse(bad);
    if (!map.ok()) continue;
    for (const char* text : {"abcabc", "\xC3\xA9", "zz\x01"}) {
      (void)map->shortest(text);
      const auto rule = map->longest(text);
      EXPECT_LE(rule.has_value() ? rule->length : 0, std::string_view(text).size());
    }
  }
}

TEST(Base64, Decodes) {
  EXPECT_EQ(decode_base64(""), "");
  EXPECT_EQ(decode_base64("Zg=="), "f");
  EXPECT_EQ(decode_base64("Zm8="), "fo");
  EXPECT_EQ(decode_base64("Zm8"), "fo");
  EXPECT_EQ(decode_base64("Zm9vYmFy"), "foobar");
  EXPECT_EQ(decode_base64("//79"), "\xFF\xFE\xFD");
  for (const char* bad : {"A", "Zm9vY", "Zm9-", "Zm 9", "=Zm9"}) {
    EXPECT_FALSE(decode_base64(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace tessera::tokenizer
