#include "tokenizer/unigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <random>

#include "tokenizer/testing.h"
#include "tokenizer/trie.h"

namespace tessera::tokenizer {
namespace {

std::string model(const std::string& vocabulary, const std::string& rest = "\"unk_id\": 0") {
  return R"({"type": "Unigram", "vocab": )" + vocabulary + ", " + rest + "}";
}

TEST(Trie, FindsEveryBeginning) {
  const Trie trie({{"b", 1}, {"abc", 2}, {"a", 3}, {"", 4}, {"a", 5}, {"\xFF", 6}});
  const auto found = [&](std::string_view text) {
    std::vector<std::pair<size_t, int32_t>> all;
    trie.for_each_prefix(text, [&](size_t length, int32_t id) { all.emplace_back(length, id); });
    return all;
  };
  using All = std::vector<std::pair<size_t, int32_t>>;
  EXPECT_EQ(found("abcd"), All({{1, 5}, {3, 2}}));
  EXPECT_EQ(found("ab"), All({{1, 5}}));
  EXPECT_EQ(found("\xFF\xFF"), All({{1, 6}}));
  EXPECT_EQ(found("x"), All());
  EXPECT_EQ(found(""), All());
  EXPECT_EQ(trie.longest_prefix("abc"), 3u);
  EXPECT_EQ(Trie().longest_prefix("abc"), 0u);
  EXPECT_TRUE(Trie({{"", 1}}).empty());
}

TEST(Unigram, TakesTheMostProbableSplit) {
  Parts parts;
  parts.model = model(R"([["?", 0], ["a", -1], ["b", -1], ["ab", -1.5], ["abc", -9], ["c", -1]])");
  EXPECT_EQ(tokens_of(parts, "abc"), Strings({"ab", "c"}));
  EXPECT_EQ(tokens_of(parts, "ba"), Strings({"b", "a"}));
}

TEST(Unigram, JoinsUnknownNeighbours) {
  Parts parts;
  parts.model = model(R"([["?", 0], ["a", -1]])");
  EXPECT_EQ(tokens_of(parts, "xyazz"), Strings({"?", "a", "?"}));
  EXPECT_EQ(tokens_of(parts, "\xC3\xA9\xE4\xB8\xAD"), Strings({"?"}));
  parts.model = model(R"([["?", 0], ["a", -1]])", R"("unk_id": null)");
  EXPECT_EQ(tokens_of(parts, "aa"), Strings({"a", "a"}));
  EXPECT_EQ(tokens_of(parts, "ax")[0],
            "error: expected a tokenizer with an unknown token for text outside its vocabulary, "
            "found none (\"x\")");
}

TEST(Unigram, FallsBackToBytesWhereAllHaveTokens) {
  Parts parts;
  parts.model = model(R"([["?", 0], ["a", -1], ["<0xC3>", 0], ["<0xA9>", 0]])",
                      R"("unk_id": 0, "byte_fallback": true)");
  EXPECT_EQ(tokens_of(parts,
                      "\xC3\xA9"
                      "a"),
            Strings({"<0xC3>", "<0xA9>", "a"}));
  EXPECT_EQ(tokens_of(parts, "\xC3\xA9\xC3\xA8"), Strings({"?"})) << "one run, one fate";
}

TEST(Unigram, OfEqualTokensTheLastCounts) {
  Parts parts;
  parts.model = model(R"([["?", 0], ["a", -1], ["a", -2]])");
  const auto made = load(parts);
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ((*made)->encode({"a"}, {.special = SpecialTokens::kOmit})->ids,
            std::vector<int32_t>({2}));
}

// Against the best score over all splits of random texts.
TEST(Unigram, EqualsTheDefinitionOnRandomTexts) {
  const uint32_t seed = 20240611;
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937 random(seed);
  std::map<std::string, double> scores;
  for (const char* one : {"a", "b", "c"}) scores[one] = -8.0 - static_cast<double>(random() % 5);
  while (scores.size() < 60) {
    std::string token;
    for (size_t length = 2 + random() % 4; token.size() < length;) token += "abc"[random() % 3];
    scores.try_emplace(token, -1.0 - static_cast<double>(random() % 1000) / 64);
  }
  std::string vocabulary = R"([["?", 0])";
  for (const auto& [token, score] : scores) {
    vocabulary += fmt::format(", [\"{}\", {}]", token, score);
  }
  Parts parts;
  parts.model = model(vocabulary + "]");
  for (int round = 0; round < 50; ++round) {
    std::string text;
    for (size_t length = 1 + random() % 60; text.size() < length;) text += "abc"[random() % 3];
    std::vector<double> best(text.size() + 1, -std::numeric_limits<double>::infinity());
    best[0] = 0;
    for (size_t end = 1; end <= text.size(); ++end) {
      for (size_t begin = 0; begin < end; ++begin) {
        const auto found = scores.find(text.substr(begin, end - begin));
        if (found != scores.end()) best[end] = std::max(best[end], best[begin] + found->second);
      }
    }
    double got = 0;
    std::string joined;
    for (const std::string& token : tokens_of(parts, text)) {
      joined += token;
      got += scores.at(token);
    }
    EXPECT_EQ(joined, text);
    EXPECT_EQ(got, best[text.size()]) << text;  // the scores are exact in binary
  }
}

TEST(Unigram, ReportsDamage) {
  const auto error = [](const std::string& text) {
    return load_error(R"({"model": )" + text + "}");
  };
  EXPECT_EQ(error(model("{}")), "tokenizer.json: model.vocab: expected an array, found an object");
  EXPECT_EQ(error(model(R"([["a"]])")),
            "tokenizer.json: model.vocab[0]: expected [token, score], found an array");
  EXPECT_EQ(error(model(R"([[3, 0]])")),
            "tokenizer.json: model.vocab[0][0]: expected a string, found 3");
  EXPECT_EQ(error(model(R"([["a", "b"]])")),
            "tokenizer.json: model.vocab[0][1]: expected a number, found \"b\"");
  EXPECT_EQ(error(model(R"([["a", null]])")),
            "tokenizer.json: model.vocab[0][1]: expected a number, found nothing");
  EXPECT_NE(error(model(R"([["a", 1e999]])")), "");
  EXPECT_NE(error(model(R"([["a", NaN]])")), "");
  EXPECT_EQ(error(model(R"([["a", 0]])", "\"unk_id\": 1")),
            "tokenizer.json: model.unk_id: expected an integer from 0 to 0, found 1");
  EXPECT_NE(error(model("[]")), "") << "an unknown token in an empty vocabulary";
  EXPECT_EQ(error(model("[[\"" + std::string(9000, 'a') + "\", 0]]")),
            "tokenizer.json: model.vocab[0]: expected a token of at most 8000 bytes, found 9000");
  Parts parts;
  parts.model = model(R"([["a", -1e308], ["b", 1e308]])");
  EXPECT_FALSE(tokens_of(parts, "abbaaabxbb").empty()) << "sums without a value must not matter";
}

}  // namespace
}  // namespace tessera::tokenizer
