#include "runtime/stop_strings.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

// The text that comes through, with a bar after each piece and the end.
std::string through(std::vector<std::string> strings, const std::vector<std::string>& pieces) {
  StopStrings stops(std::move(strings));
  std::string text;
  for (const std::string& piece : pieces) text += stops.next(piece) + "|";
  return text + stops.finish() + (stops.found() ? "!" : "");
}

TEST(StopStrings, HoldsBackWhatMayBecomeOne) {
  EXPECT_EQ(through({"END"}, {"an E", "N", "D of"}), "an |||!");
  EXPECT_EQ(through({"END"}, {"an E", "N", "I"}), "an ||ENI|");
  EXPECT_EQ(through({"END"}, {"an EN"}), "an |EN");
  EXPECT_EQ(through({"END"}, {"ENEND"}), "EN|!");
  EXPECT_EQ(through({"\n\n"}, {"a\n", "b\n", "\nc", "d"}), "a|\nb|||!");
  EXPECT_EQ(through({}, {"a", "b"}), "a|b|");
}

TEST(StopStrings, TheFirstCompleteOneEndsTheText) {
  for (const std::vector<std::string>& strings :
       {std::vector<std::string>{"abcd", "bc"}, {"bc", "abcd"}}) {
    EXPECT_EQ(through(strings, {"xabcd"}), "xa|!");
    EXPECT_EQ(through(strings, {"x", "a", "b", "c"}), "x|||a|!");
  }
  for (const std::vector<std::string>& strings :
       {std::vector<std::string>{"abc", "bc"}, {"bc", "abc"}}) {
    EXPECT_EQ(through(strings, {"xabc"}), "x|!");
    EXPECT_EQ(through(strings, {"x", "a", "b", "c"}), "x||||!");
  }
}

// Every way of cutting a text gives the same.
TEST(StopStrings, CutsOfTheTextChangeNothing) {
  const std::string text =
      "aabaabaaab\xC3\xA9"
      "ab";
  for (const std::vector<std::string>& strings :
       {std::vector<std::string>{"aaab"}, {"baaa", "ab\xC3\xA9"}, {"zz"}, {"\xC3\xA9", "b"}}) {
    std::string expected;
    for (unsigned cuts = 0; cuts < 1u << (text.size() - 1); ++cuts) {
      StopStrings stops(strings);
      std::string found, piece;
      for (size_t i = 0; i < text.size(); ++i) {
        piece += text[i];
        if (((cuts >> i) & 1) == 0 && i + 1 < text.size()) continue;
        found += stops.next(piece);
        piece.clear();
      }
      found += stops.finish() + (stops.found() ? "!" : "");
      if (cuts == 0) expected = found;
      ASSERT_EQ(found, expected) << cuts;
    }
  }
}

TEST(StopStrings, RefusesWhatNoTextContains) {
  EXPECT_EQ(check_stop_strings({"a", ""}).message(),
            "stop: expected strings of text, found an empty one");
  EXPECT_FALSE(check_stop_strings({"\xC3"}).ok());
  EXPECT_TRUE(check_stop_strings({"a", "\xC3\xA9"}).ok());
}

}  // namespace
}  // namespace tessera
