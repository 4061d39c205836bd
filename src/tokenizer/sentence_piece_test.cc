#include "tokenizer/sentence_piece.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "tokenizer/proto_testing.h"
#include "tokenizer/testing.h"

namespace tessera::tokenizer {
namespace {

// The tokens of a text, or "error: <message>".
Strings pieces_of_model(const TestSentencePiece& model, std::string_view text) {
  const auto made = Tokenizer::from_sentence_piece(model.to_bytes(), "m");
  if (!made.ok()) return {"error: " + made.status().message()};
  const auto encoding = (*made)->encode({text});
  if (!encoding.ok()) return {"error: " + encoding.status().message()};
  Strings tokens;
  for (const int32_t id : encoding->ids) tokens.push_back((*made)->token_of(id));
  return tokens;
}

std::string decoded(const TestSentencePiece& model, const std::vector<int32_t>& ids,
                    DecodeSpecial special = DecodeSpecial::kSkip) {
  const auto made = Tokenizer::from_sentence_piece(model.to_bytes(), "m");
  if (!made.ok()) return made.status().message();
  return *(*made)->decode(ids, special);
}

std::string error_of(std::string_view bytes) {
  const auto made = Tokenizer::from_sentence_piece(bytes, "m");
  return made.ok() ? "" : made.status().message();
}

TestSentencePiece letters(int algorithm = 1) {
  TestSentencePiece model;
  model.algorithm = algorithm;
  for (const char* text : {"\xE2\x96\x81", "a", "b", "c"}) model.pieces.push_back({text, -5});
  return model;
}

const std::string kMark(kSpaceMark);

TEST(SentencePiece, SqueezesAndMarksSpaces) {
  TestSentencePiece model = letters();
  EXPECT_EQ(pieces_of_model(model, "  a   b "), Strings({kMark, "a", kMark, "b"}));
  EXPECT_EQ(pieces_of_model(model, ""), Strings());
  EXPECT_EQ(pieces_of_model(model, "   "), Strings());
  model.normalizer = proto_integer(4, 0);  // remove_extra_whitespaces
  EXPECT_EQ(pieces_of_model(model, " a "), Strings({kMark, kMark, "a", kMark}));
  model.normalizer += proto_integer(3, 0);  // add_dummy_prefix
  EXPECT_EQ(pieces_of_model(model, "a b"), Strings({"a", kMark, "b"}));
  model.normalizer += proto_integer(5, 0);  // escape_whitespaces
  EXPECT_EQ(pieces_of_model(model, "a b"), Strings({"a", "<unk>", "b"}));
  model.normalizer.clear();
  model.trainer = proto_integer(24, 1);  // treat_whitespace_as_suffix
  EXPECT_EQ(pieces_of_model(model, "a b"), Strings({"a", kMark, "b", kMark}));
}

TEST(SentencePiece, TakesTheLongestRuleOfTheMap) {
  TestSentencePiece model = letters();
  model.normalizer =
      proto_bytes(2, charsmap_bytes({{"x", "a"}, {"xy", "b"}, {"\t", " "}, {"q", ""}}));
  EXPECT_EQ(pieces_of_model(model, "xxyq\tq x"), Strings({kMark, "a", "b", kMark, "a"}));
}

// Scores of user-defined pieces as the sentencepiece library 0.2.3 was seen to weigh them.
TEST(SentencePiece, ScoresUserDefinedPiecesByTheirLength) {
  TestSentencePiece model = letters();
  model.pieces.push_back({"ab", -100, 4});
  EXPECT_EQ(pieces_of_model(model, "ab"), Strings({kMark, "ab"}));
  model.pieces.push_back({"abc", -4.8f});
  EXPECT_EQ(pieces_of_model(model, "abc"), Strings({kMark, "abc"})) << "-4.8 against 0.1 - 5";
  model.pieces.back().score = -5;
  EXPECT_EQ(pieces_of_model(model, "abc"), Strings({kMark, "ab", "c"}));
}

TEST(SentencePiece, JoinsUnknownsAndFallsBackToBytes) {
  for (const int algorithm : {1, 2}) {
    TestSentencePiece model = letters(algorithm);
    EXPECT_EQ(pieces_of_model(model, "xyaz"), Strings({kMark, "<unk>", "a", "<unk>"}));
    EXPECT_EQ(decoded(model, {3, 0, 4}), " \xE2\x81\x87 a");
    model.trainer = proto_integer(35, 1) + proto_bytes(44, "?");
    for (int byte = 0; byte < 256; ++byte) {
      model.pieces.push_back({fmt::format("<0x{:02X}>", byte), 0, 6});
    }
    EXPECT_EQ(pieces_of_model(model, "a\xC3\xA9"), Strings({kMark, "a", "<0xC3>", "<0xA9>"}));
    EXPECT_EQ(decoded(model, {3, 4, 7 + 0xC3, 7 + 0xA9, 7 + 0xA9, 4, 0}),
              "a\xC3\xA9\xEF\xBF\xBD"
              "a?");
  }
}

TEST(SentencePiece, BpeMergesTheHighestScoreFirst) {
  TestSentencePiece model = letters(2);
  model.pieces.push_back({"ab", -1});
  model.pieces.push_back({"bc", -0.5f});
  model.pieces.push_back({"abc", -3});
  EXPECT_EQ(pieces_of_model(model, "abc"), Strings({kMark, "abc"}));
  EXPECT_EQ(pieces_of_model(model, "abab c"), Strings({kMark, "ab", "ab", kMark, "c"}));
  model.pieces.pop_back();
  EXPECT_EQ(pieces_of_model(model, "abc"), Strings({kMark, "a", "bc"}));
  model.pieces.push_back({"aa", 0});
  EXPECT_EQ(pieces_of_model(model, "aaa"), Strings({kMark, "aa", "a"})) << "the leftmost of equals";
}

TEST(SentencePiece, BpeTakesUnusedPiecesApart) {
  TestSentencePiece model = letters(2);
  model.pieces.push_back({"ab", -1, 5});
  model.pieces.push_back({"abc", -2, 5});
  EXPECT_EQ(pieces_of_model(model, "abc"), Strings({kMark, "a", "b", "c"}));
  model.pieces.push_back({"abcc", -3});
  EXPECT_EQ(pieces_of_model(model, "abcc"), Strings({kMark, "abcc"}));
}

TEST(SentencePiece, BpeLeavesUserDefinedPiecesWhole) {
  TestSentencePiece model = letters(2);
  model.pieces.push_back({"ab", -9, 4});
  model.pieces.push_back({"abc", -1});
  model.pieces.push_back({"bc", -1});
  EXPECT_EQ(pieces_of_model(model, "abcbc"), Strings({kMark, "ab", "c", "bc"}));
}

// Words are looked up one by one where that changes nothing; a piece across words forbids it.
TEST(SentencePiece, BpeMergesAcrossWordsWhereAPieceDoes) {
  TestSentencePiece model = letters(2);
  model.pieces.push_back({"a" + kMark, -1});
  EXPECT_EQ(pieces_of_model(model, "a b"), Strings({kMark, "a" + kMark, "b"}));
}

TEST(SentencePiece, DecodesWithoutThePrefixAndControls) {
  TestSentencePiece model = letters();
  model.pieces.push_back({kMark + "a", -1});
  EXPECT_EQ(decoded(model, {1, 7, 7, 2}), "a a");
  EXPECT_EQ(decoded(model, {1, 7, 2}, DecodeSpecial::kKeep), "<s> a</s>");
  EXPECT_EQ(decoded(model, {3, 3, 7}), "a") << "with spaces squeezed all of them go";
  model.normalizer = proto_integer(4, 0);
  EXPECT_EQ(decoded(model, {3, 3, 7}), "  a");
  model.normalizer += proto_integer(3, 0);
  EXPECT_EQ(decoded(model, {7}), " a");
}

TEST(SentencePiece, ReportsDamage) {
  const auto with = [](std::vector<TestPiece> pieces, const std::string& trainer = "",
                       const std::string& normalizer = "") {
    TestSentencePiece model;
    for (TestPiece& piece : pieces) model.pieces.push_back(std::move(piece));
    model.trainer = trainer;
    model.normalizer = normalizer;
    return error_of(model.to_bytes());
  };
  EXPECT_EQ(with({}), "");
  EXPECT_EQ(error_of(""), "m: expected an unknown piece, found none");
  EXPECT_EQ(with({{"", 0}}), "m: piece 3: expected a text, found nothing");
  EXPECT_EQ(with({{"a", 0}, {"a", 0}}),
            "m: piece 4: expected a text of its own, found \"a\" again");
  EXPECT_EQ(with({{"<x>", 0, 2}}),
            "m: piece 3: expected one unknown piece, found another after piece 0");
  EXPECT_EQ(with({{"a", std::numeric_limits<float>::quiet_NaN()}}),
            "m: piece 3: expected a finite score, found nan");
  EXPECT_NE(with({{"a", std::numeric_limits<float>::infinity()}}), "");
  EXPECT_NE(with({{"\xFF", 0}}).find("UTF-8"), std::string::npos);
  EXPECT_NE(with({{std::string("a\0", 2), 0}}).find("without NUL"), std::string::npos);
  EXPECT_NE(with({{std::string(9000, 'a'), 0}}).find("at most 8000 bytes"), std::string::npos);
  EXPECT_EQ(with({{"a", 0, 7}}), "m: expected a type from 1 to 6, found 7");
  EXPECT_EQ(with({{"<0x4G>", 0, 6}}),
            "m: piece 3: expected a byte piece from <0x00> to <0xFF>, found \"<0x4G>\"");
  EXPECT_EQ(with({{"<0x41>", 0, 6}}),
            "m: expected 0 byte pieces, as byte_fallback is false, found 1");
  EXPECT_EQ(with({}, proto_integer(35, 1)),
            "m: expected 256 byte pieces, as byte_fallback is true, found 0");
  EXPECT_EQ(with({}, proto_integer(3, 3)),
            "m: expected a model of type 1 (Unigram) or 2 (BPE), found 3, which is not supported");
  EXPECT_EQ(with({}, proto_bytes(35, "1")),
            "m: expected a truth value in field 35, found wire type 2");
  EXPECT_EQ(with({}, "", proto_bytes(2, "abc")),
            "m: expected a character map of at least 4 bytes, found 3");
  EXPECT_NE(with({}, proto_bytes(44, "\xFF")).find("unknown piece in UTF-8"), std::string::npos);
  EXPECT_NE(error_of(TestSentencePiece().to_bytes() + proto_bytes(5, proto_bytes(2, "x")))
                .find("not supported"),
            std::string::npos);
}

TEST(Protobuf, ReportsLengthsThatLie) {
  EXPECT_EQ(error_of("\x0A\x05"
                     "ab"),
            "m: expected a protobuf message, found field 1 of 5 bytes where 2 are left at byte 0 "
            "of it");
  EXPECT_EQ(error_of("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"),
            "m: expected a protobuf message, found field 1 of 18446744073709551615 bytes where 0 "
            "are left at byte 0 of it");
  EXPECT_NE(error_of(std::string(20, '\xFF')).find("more than 10 bytes"), std::string::npos);
  EXPECT_NE(error_of("\x80").find("the end inside an integer"), std::string::npos);
  EXPECT_NE(error_of("\x35\x01").find("the end inside a number"), std::string::npos);
  EXPECT_NE(error_of("\x33").find("wire type 3"), std::string::npos) << "groups";
  EXPECT_NE(error_of(std::string(1, '\0')).find("field number 0"), std::string::npos);
  EXPECT_NE(error_of("\x08\x01").find("expected bytes in field 1"), std::string::npos);
  EXPECT_NE(error_of("{\"model\": 3}"), "");
}

// A million pieces of two bytes each: the reader must not need more than the file has.
TEST(Protobuf, SurvivesAHugeNumberOfPieces) {
  std::string bytes;
  for (int i = 0; i < 1'000'000; ++i) bytes += proto_bytes(1, "");
  EXPECT_EQ(error_of(bytes), "m: piece 0: expected a text, found nothing");
}

TEST(SentencePiece, SurvivesDamagedFiles) {
  const uint32_t seed = 11;
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937 random(seed);
  for (const int algorithm : {1, 2}) {
    TestSentencePiece model = letters(algorithm);
    model.pieces.push_back({"ab", -1, 5});
    model.pieces.push_back({"bc", -1, 4});
    model.pieces.push_back({"abc", -1});
    const std::string good = model.to_bytes();
    for (size_t length = 0; length < good.size(); ++length) {
      (void)error_of(std::string_view(good).substr(0, length));
    }
    for (int round = 0; round < 3000; ++round) {
      std::string bad = good;
      for (int i = 0; i < 2; ++i) bad[random() % bad.size()] = static_cast<char>(random());
      const auto made = Tokenizer::from_sentence_piece(bad, "m");
      if (!made.ok()) {
        EXPECT_FALSE(made.status().message().empty());
        continue;
      }
      (void)(*made)->encode({" abcab  c\xC3\xA9 bca"});
      (void)(*made)->decode({0, 1, 2}, DecodeSpecial::kKeep);
    }
  }
}

// The text that each token comes from, in brackets.
std::string sources_of_model(const TestSentencePiece& model, std::string_view text) {
  const auto made = Tokenizer::from_sentence_piece(model.to_bytes(), "m");
  if (!made.ok()) return made.status().message();
  const auto encoding = (*made)->encode({text}, {.origins = Origins::kGive});
  if (!encoding.ok()) return encoding.status().message();
  std::string joined;
  for (const TokenOrigin& origin : encoding->origins) {
    joined.append("[").append(text.substr(origin.begin, origin.end - origin.begin)).append("]");
  }
  return joined;
}

// As the sentencepiece library has them, but that tokens of one character share it and that a token
// does not end with spaces that are squeezed away.
TEST(SentencePiece, TellsWhereTokensComeFrom) {
  for (const int algorithm : {1, 2}) {
    TestSentencePiece model = letters(algorithm);
    model.pieces.push_back({kMark + "b", -1});
    EXPECT_EQ(sources_of_model(model, " a   b "), "[][a][   b]")
        << "no space stands for the prefix";
    EXPECT_EQ(sources_of_model(model, "a\xC3\xA9z c"), "[][a][\xC3\xA9z][ ][c]");
    model.trainer = proto_integer(35, 1);
    for (int byte = 0; byte < 256; ++byte) {
      model.pieces.push_back({fmt::format("<0x{:02X}>", byte), 0, 6});
    }
    EXPECT_EQ(sources_of_model(model, "a\xC3\xA9"), "[][a][\xC3\xA9][\xC3\xA9]");
  }
}

}  // namespace
}  // namespace tessera::tokenizer
