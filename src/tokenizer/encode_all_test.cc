#include <fmt/format.h>

#include <random>
#include <thread>

#include "tokenizer/testing.h"

namespace tessera::tokenizer {
namespace {

std::shared_ptr<const Tokenizer> characters() {
  Parts parts;
  parts.model = character_model();
  parts.normalizer = R"({"type": "Lowercase"})";
  parts.pre_tokenizer = R"({"type": "Metaspace", "replacement": "▁"})";
  parts.post_processor = R"({"type": "BertProcessing", "cls": ["<", 29], "sep": [">", 31]})";
  auto made = load(parts);
  EXPECT_TRUE(made.ok()) << made.status().message();
  return *made;
}

// Texts of very different lengths, some of them empty.
std::vector<std::string> random_texts(size_t count) {
  constexpr uint32_t kSeed = 7;
  std::mt19937 random(kSeed);
  std::vector<std::string> texts(count);
  for (std::string& text : texts) {
    const size_t length = random() % 50 == 0 ? random() % 30000 : random() % 80;
    for (size_t i = 0; i < length; ++i) text += static_cast<char>(' ' + random() % 90);
  }
  return texts;
}

void expect_same(const Encoding& made, const Encoding& wanted) {
  EXPECT_EQ(made.ids, wanted.ids);
  EXPECT_EQ(made.type_ids, wanted.type_ids);
  EXPECT_EQ(made.origins, wanted.origins);
  EXPECT_EQ(made.truncated, wanted.truncated);
}

TEST(EncodeAll, GivesWhatEncodeGivesInOrder) {
  const auto tokenizer = characters();
  const std::vector<std::string> texts = random_texts(400);
  std::vector<TextPair> pairs;
  for (size_t i = 0; i < texts.size(); ++i) {
    pairs.push_back({texts[i]});
    if (i % 3 == 0) pairs.back().second = texts[texts.size() - 1 - i];
  }
  const EncodeOptions options = {.truncation = Truncation{.max_tokens = 100},
                                 .origins = Origins::kGive};
  std::vector<Encoding> wanted;
  for (const TextPair& pair : pairs) wanted.push_back(*tokenizer->encode(pair, options));
  for (const int threads : {0, 1, 2, 5}) {
    SCOPED_TRACE(threads);
    const auto made = tokenizer->encode_all(pairs, options, threads);
    ASSERT_TRUE(made.ok()) << made.status().message();
    ASSERT_EQ(made->size(), pairs.size());
    for (size_t i = 0; i < pairs.size(); ++i) expect_same((*made)[i], wanted[i]);
  }
  EXPECT_TRUE(tokenizer->encode_all({}, {}, 3)->empty());
}

TEST(EncodeAll, NamesTheFirstTextThatFails) {
  const auto tokenizer = characters();
  std::vector<std::string> texts = random_texts(300);
  for (const size_t bad : {size_t{17}, size_t{60}, size_t{299}}) texts[bad] = "a\xFF";
  const std::vector<TextPair> pairs = [&] {
    std::vector<TextPair> made;
    for (const std::string& text : texts) made.push_back({text});
    return made;
  }();
  for (const int threads : {1, 4}) {
    EXPECT_EQ(tokenizer->encode_all(pairs, {}, threads).status().message(),
              "text 17: expected UTF-8, found byte 0xFF at offset 1 of the text");
  }
  const std::vector<TextPair> pair = {{"a", "b"}, {"a", "\xFF"}};
  EXPECT_EQ(tokenizer->encode_all(pair, {}, 1).status().message(),
            "text 1: expected UTF-8, found byte 0xFF at offset 0 of the second text");
}

TEST(EncodeAll, MayBeCalledFromSeveralThreads) {
  const auto tokenizer = characters();
  const std::vector<std::string> texts = random_texts(100);
  std::vector<TextPair> pairs;
  for (const std::string& text : texts) pairs.push_back({text});
  const auto wanted = *tokenizer->encode_all(pairs, {}, 1);
  std::vector<std::thread> callers;
  std::vector<std::vector<Encoding>> made(4);
  for (auto& result : made) {
    callers.emplace_back([&] { result = *tokenizer->encode_all(pairs, {}, 2); });
  }
  for (std::thread& caller : callers) caller.join();
  for (const auto& result : made) {
    ASSERT_EQ(result.size(), wanted.size());
    for (size_t i = 0; i < wanted.size(); ++i) expect_same(result[i], wanted[i]);
  }
}

}  // namespace
}  // namespace tessera::tokenizer
