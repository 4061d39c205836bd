#include "tokenizer/truncation.h"

#include <fmt/format.h>

#include "tokenizer/testing.h"

namespace tessera::tokenizer {
namespace {

using Ids = std::vector<int32_t>;

// Letters by themselves, "a" with id 1 and so on, as [ A ] or [ A ] B ].
std::shared_ptr<const Tokenizer> letters() {
  Parts parts;
  std::string vocabulary = R"("?": 0)";
  for (int i = 0; i < 26; ++i) vocabulary += fmt::format(", \"{}\": {}", char('a' + i), i + 1);
  parts.model = R"({"type": "BPE", "unk_token": "?", "merges": [], "vocab": {)" + vocabulary +
                R"(, "[": 27, "]": 28}})";
  parts.post_processor = R"({"type": "BertProcessing", "cls": ["[", 27], "sep": ["]", 28]})";
  return *load(parts);
}

// How many tokens of two texts of nine and four are left, as "first second", or the message.
std::string left_of_pair(TruncationStrategy strategy, size_t max_tokens) {
  const auto made =
      letters()->encode({"aaaaaaaaa", "bbbb"},
                        {.truncation = Truncation{.max_tokens = max_tokens, .strategy = strategy}});
  if (!made.ok()) return made.status().message();
  EXPECT_EQ(made->type_ids.size(), made->ids.size());
  return fmt::format("{} {}", std::count(made->ids.begin(), made->ids.end(), 1),
                     std::count(made->ids.begin(), made->ids.end(), 2));
}

// The numbers are those of the `tokenizers` library.
TEST(Truncation, ShortensTheLongerText) {
  constexpr auto kStrategy = TruncationStrategy::kLongestFirst;
  const std::pair<size_t, const char*> expected[] = {{16, "9 4"}, {14, "7 4"}, {12, "5 4"},
                                                     {8, "3 2"},  {7, "2 2"},  {5, "1 1"},
                                                     {4, "1 0"},  {3, "0 0"}};
  for (const auto& [max_tokens, left] : expected) {
    EXPECT_EQ(left_of_pair(kStrategy, max_tokens), left) << max_tokens;
  }
  EXPECT_EQ(left_of_pair(kStrategy, 2),
            "expected room for 3 special tokens, found a limit of 2 tokens");
}

TEST(Truncation, ShortensOneTextAlone) {
  EXPECT_EQ(left_of_pair(TruncationStrategy::kOnlyFirst, 12), "5 4");
  EXPECT_EQ(left_of_pair(TruncationStrategy::kOnlyFirst, 8), "1 4");
  EXPECT_EQ(left_of_pair(TruncationStrategy::kOnlyFirst, 7),
            "expected room for the first text beside the 4 tokens of the other one, found 4");
  EXPECT_EQ(left_of_pair(TruncationStrategy::kOnlySecond, 14), "9 2");
  EXPECT_EQ(left_of_pair(TruncationStrategy::kOnlySecond, 12),
            "expected room for the second text beside the 9 tokens of the other one, found 9");
}

TEST(Truncation, CutsOffTheSideAskedFor) {
  const auto tokenizer = letters();
  const auto ids = [&](const Truncation& truncation, SpecialTokens special) {
    const auto made = tokenizer->encode({"abcdef"}, {.special = special, .truncation = truncation});
    return made.ok() ? made->ids : Ids();
  };
  EXPECT_EQ(ids({.max_tokens = 5}, SpecialTokens::kAdd), Ids({27, 1, 2, 3, 28}));
  EXPECT_EQ(ids({.max_tokens = 5, .side = TruncationSide::kLeft}, SpecialTokens::kAdd),
            Ids({27, 4, 5, 6, 28}));
  EXPECT_EQ(ids({.max_tokens = 5}, SpecialTokens::kOmit), Ids({1, 2, 3, 4, 5}));
  EXPECT_EQ(ids({.max_tokens = 2}, SpecialTokens::kAdd), Ids({27, 28}));
  EXPECT_EQ(ids({.max_tokens = 0}, SpecialTokens::kOmit), Ids());
  EXPECT_EQ(
      ids({.max_tokens = 8, .strategy = TruncationStrategy::kOnlySecond}, SpecialTokens::kAdd),
      Ids({27, 1, 2, 3, 4, 5, 6, 28}));
  const auto made = tokenizer->encode(
      {"abcdef"},
      {.truncation = Truncation{.max_tokens = 5, .strategy = TruncationStrategy::kOnlySecond}});
  EXPECT_EQ(made.status().message(), "expected a second text to truncate, found one text");
}

std::string windows(std::string_view second, size_t max_tokens, size_t overlap) {
  const auto made = letters()->encode_windows({"ab", second}, max_tokens, overlap);
  if (!made.ok()) return made.status().message();
  std::string text;
  for (const Encoding& window : *made) {
    EXPECT_EQ(window.origins.size(), window.ids.size());
    EXPECT_EQ(window.type_ids.size(), window.ids.size());
    if (!text.empty()) text += ' ';
    for (const int32_t id : window.ids) text += static_cast<char>(id < 27 ? 'a' + id - 1 : '|');
  }
  return text;
}

TEST(Windows, OverlapAndCoverTheSecondText) {
  EXPECT_EQ(windows("cdefgh", 8, 0), "|ab|cde| |ab|fgh|");
  EXPECT_EQ(windows("cdefgh", 8, 1), "|ab|cde| |ab|efg| |ab|gh|");
  EXPECT_EQ(windows("cdefgh", 8, 2), "|ab|cde| |ab|def| |ab|efg| |ab|fgh|");
  EXPECT_EQ(windows("cdefgh", 11, 10), "|ab|cdefgh|") << "one window needs no overlap";
  EXPECT_EQ(windows("", 5, 0), "|ab||");
}

TEST(Windows, NeedRoom) {
  EXPECT_EQ(windows("cdefgh", 8, 3),
            "expected room for more tokens of the second text than the overlap of 3, found 3");
  EXPECT_EQ(windows("c", 5, 0),
            "expected room for more tokens of the second text than the overlap of 0, found 0");
  EXPECT_EQ(windows("", 4, 0),
            "expected windows of at least 5 tokens, which the first text and the special tokens "
            "take, found 4");
  EXPECT_EQ(letters()->encode_windows({"a"}, 9, 1).status().message(),
            "expected a second text for windows to go over, found one text");
}

}  // namespace
}  // namespace tessera::tokenizer
