#include <fmt/format.h>

#include <random>

#include "tokenizer/components.h"
#include "tokenizer/testing.h"
#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

std::shared_ptr<const Tokenizer> byte_level() {
  std::string vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    std::string spelled(byte_spelling(static_cast<uint8_t>(byte)));
    if (spelled == "\"" || spelled == "\\") spelled.insert(0, "\\");
    vocabulary += fmt::format("{}\"{}\": {}", byte == 0 ? "" : ", ", spelled, byte);
  }
  Parts parts;
  parts.model = fmt::format(R"({{"type": "BPE", "vocab": {{{}}}, "merges": []}})", vocabulary);
  parts.decoder = R"({"type": "ByteLevel"})";
  parts.pre_tokenizer = R"({"type": "ByteLevel", "add_prefix_space": false})";
  return *load(parts);
}

// As Llama has it: marks for spaces, a byte for what has no token. Ids: bytes 0-255, then the
// others.
std::shared_ptr<const Tokenizer> byte_fallback() {
  std::string vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary += fmt::format("{}\"<0x{:02X}>\": {}", byte == 0 ? "" : ", ", byte, byte);
  }
  Parts parts;
  parts.model = fmt::format(
      R"({{"type": "BPE", "vocab": {{{}, "▁a": 256, "b": 257, "▁": 258}}, "merges": []}})",
      vocabulary);
  parts.decoder = R"({"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
      {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})";
  parts.added_tokens = R"([{"id": 259, "content": "<s>", "special": true}])";
  return *load(parts);
}

std::shared_ptr<const Tokenizer> word_piece() {
  Parts parts;
  parts.model = R"({"type": "WordPiece", "unk_token": "?",
                    "vocab": {"?": 0, "a": 1, "##b": 2, ".": 3, "c": 4}})";
  parts.decoder = R"({"type": "WordPiece", "prefix": "##", "cleanup": true})";
  return *load(parts);
}

Strings stream(const std::shared_ptr<const Tokenizer>& tokenizer,
               const std::vector<int32_t>& prompt, const std::vector<int32_t>& ids) {
  StreamDecoder decoder(tokenizer, DecodeSpecial::kSkip);
  if (!prompt.empty()) decoder.prime(prompt);
  Strings pieces;
  for (const int32_t id : ids) pieces.push_back(*decoder.next(id));
  pieces.push_back(*decoder.finish());
  return pieces;
}

std::vector<int32_t> bytes_of(std::string_view text) {
  std::vector<int32_t> ids;
  for (const char byte : text) ids.push_back(static_cast<uint8_t>(byte));
  return ids;
}

TEST(StreamDecoder, HoldsUnfinishedCharacters) {
  EXPECT_EQ(stream(byte_level(), {}, bytes_of("aé😀b")),
            Strings({"a", "", "é", "", "", "", "😀", "b", ""}));
  EXPECT_EQ(stream(byte_level(), {}, bytes_of("a\xF0\x9F")),
            Strings({"a", "", "", "\xEF\xBF\xBD"}));
  EXPECT_EQ(stream(byte_level(), {},
                   bytes_of("\xFF\xFF"
                            "a")),
            Strings({"", "\xEF\xBF\xBD",
                     "\xEF\xBF\xBD"
                     "a",
                     ""}))
      << "at most the last character is in doubt";
}

TEST(StreamDecoder, HoldsRunsOfBytes) {
  EXPECT_EQ(stream(byte_fallback(), {}, {256, 0xC3, 0xA9, 0xC3, 0xA9, 257}),
            Strings({"a", "", "", "", "", "ééb", ""}));
  EXPECT_EQ(stream(byte_fallback(), {}, {256, 0xC3, 0xA9, 0xC3, 257}),
            Strings({"a", "", "", "",
                     "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
                     "b",
                     ""}));
  EXPECT_EQ(stream(byte_fallback(), {}, {256, 0xF0, 0x9F, 0x98, 0x80}),
            Strings({"a", "", "", "", "", "😀"}));
}

TEST(StreamDecoder, KeepsTheSpaceAfterThePrompt) {
  EXPECT_EQ(stream(byte_fallback(), {}, {256, 256}), Strings({"a", " a", ""}));
  EXPECT_EQ(stream(byte_fallback(), {259}, {256, 256}), Strings({"a", " a", ""}));
  EXPECT_EQ(stream(byte_fallback(), {259, 256}, {256, 257}), Strings({" a", "b", ""}));
  EXPECT_EQ(stream(byte_fallback(), {258}, {256, 257}), Strings({" a", "b", ""}));
  EXPECT_EQ(stream(word_piece(), {}, {1, 2, 3, 4}), Strings({"a", "b", ".", " c", ""}));
  EXPECT_EQ(stream(word_piece(), {1}, {2, 4}), Strings({"b", " c", ""}));
}

TEST(StreamDecoder, FinishesTheCharacterThatThePromptBegan) {
  EXPECT_EQ(stream(byte_level(), bytes_of("a\xC3"), bytes_of("\xA9z")), Strings({"é", "z", ""}));
}

TEST(StreamDecoder, RefusesUnknownIdsAndGoesOn) {
  StreamDecoder decoder(byte_level(), DecodeSpecial::kSkip);
  EXPECT_EQ(*decoder.next('a'), "a");
  EXPECT_FALSE(decoder.next(256).ok());
  EXPECT_FALSE(decoder.next(-1).ok());
  EXPECT_EQ(*decoder.next('b'), "b");
}

// Whatever the ids: the pieces make up the decoded text, each of them is UTF-8, and a prompt
// changes nothing.
TEST(StreamDecoder, PiecesMakeUpTheTextOfRandomIds) {
  const uint32_t seed = 4711;
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937 random(seed);
  for (const auto& tokenizer : {byte_level(), byte_fallback(), word_piece()}) {
    for (int repeat = 0; repeat < 60; ++repeat) {
      std::vector<int32_t> ids;
      const std::vector<int32_t> whole_characters = bytes_of("é😀中 a");
      while (ids.size() < 150) {
        const auto size = static_cast<uint32_t>(tokenizer->vocabulary_size());
        if (size > 200 && random() % 3 != 0) {
          ids.insert(ids.end(), whole_characters.begin(), whole_characters.end());
        }
        for (uint32_t run = random() % 12; run-- > 0;) {
          const uint32_t first = size > 256 && random() % 4 != 0 ? 256 : 0;
          ids.push_back(static_cast<int32_t>(first + random() % (size - first)));
        }
      }
      const std::string whole = *tokenizer->decode(ids, DecodeSpecial::kSkip);
      const size_t prompt = random() % ids.size();
      const std::vector<int32_t> prefix(ids.begin(), ids.begin() + static_cast<int64_t>(prompt));
      const std::vector<int32_t> rest(ids.begin() + static_cast<int64_t>(prompt), ids.end());
      std::string joined;
      for (const std::string& piece : stream(tokenizer, {}, ids)) {
        EXPECT_EQ(find_invalid_utf8(piece), std::string_view::npos);
        joined += piece;
      }
      ASSERT_EQ(joined, whole);
      const std::string before = *tokenizer->decode(prefix, DecodeSpecial::kSkip);
      if (before.ends_with(kReplacementUtf8) || !whole.starts_with(before)) continue;
      joined = before;
      for (const std::string& piece : stream(tokenizer, prefix, rest)) joined += piece;
      ASSERT_EQ(joined, whole);
    }
  }
}

}  // namespace
}  // namespace tessera::tokenizer
