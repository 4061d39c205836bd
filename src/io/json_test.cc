#include "io/json.h"

#include "io/testing.h"

namespace tessera {
namespace {

using testing::expect_message;

Status error_of(std::string_view text) { return parse_json(text, "a.json").status(); }

std::string round_trip(std::string_view text) {
  const Result<Json> json = parse_json(text, "a.json");
  return json.ok() ? to_text(*json) : json.status().message();
}

TEST(Json, KeepsValuesAndSortsKeys) {
  EXPECT_EQ(round_trip(R"( {"b": [1, -2, 2.5, true, false, null], "a": {"x": "y"}} )"),
            R"({"a":{"x":"y"},"b":[1,-2,2.5,true,false,null]})");
  EXPECT_EQ(round_trip("[]"), "[]");
  EXPECT_EQ(round_trip("{}"), "{}");
  EXPECT_EQ(round_trip("3"), "3");
  EXPECT_EQ(round_trip(R"("\"\\\n\t\u0001\u00e9\ud83d\ude00")"),
            "\"\\\"\\\\\\n\\t\\u0001\xc3\xa9\xf0\x9f\x98\x80\"");
}

TEST(Json, IntegersAreExactToTheirLimits) {
  EXPECT_EQ(round_trip("9007199254740993"), "9007199254740993");
  EXPECT_EQ(round_trip("-9223372036854775808"), "-9223372036854775808");
  const Result<Json> large = parse_json("18446744073709551615", "a.json");
  ASSERT_TRUE(large.ok());
  ASSERT_NE(large->as<uint64_t>(), nullptr);
  EXPECT_EQ(*large->as<uint64_t>(), UINT64_MAX);
  EXPECT_NE(parse_json("9223372036854775807", "a.json")->as<int64_t>(), nullptr);
  EXPECT_NE(parse_json("9223372036854775808", "a.json")->as<uint64_t>(), nullptr);
  EXPECT_NE(parse_json("18446744073709551616", "a.json")->as<double>(), nullptr);
  EXPECT_EQ(round_trip("1e3"), "1000.0");
  EXPECT_EQ(round_trip("1e-12"), "1e-12");
}

TEST(Json, FindsMembersByKey) {
  const Result<Json> json = parse_json(R"({"c":3,"a":1,"b":2,"":0})", "a.json");
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(*json->find("a")->as<int64_t>(), 1);
  EXPECT_EQ(*json->find("c")->as<int64_t>(), 3);
  EXPECT_EQ(*json->find("")->as<int64_t>(), 0);
  EXPECT_EQ(json->find("d"), nullptr);
  EXPECT_EQ(json->find("a")->find("a"), nullptr);
}

TEST(Json, SyntaxErrorsSayWhatAndWhere) {
  expect_message(error_of("{\"a\": 1,\n \"b\": tru }"),
                 {"a.json", "expected valid JSON", "tru", "line 2"});
  expect_message(error_of(""), {"a.json", "found its end"});
  expect_message(error_of("{\"a\": [1, 2"), {"found its end"});
  for (const char* text :
       {"{", "[1,]", "{\"a\":}", "{a:1}", "'a'", "01", "1.", "+1", "// c\n1", "\"\t\"", "\"\\x\"",
        "\"\\ud800\"", "nul", "1e999", "{\"a\" 1}", "[1 2]", "\"abc"}) {
    expect_message(error_of(text), {"a.json", "expected valid JSON"});
  }
}

TEST(Json, NanAndInfinityAreErrors) {
  for (const char* text : {"NaN", "[NaN]", "Infinity", "-Infinity", "[-NaN]"}) {
    expect_message(error_of(text), {"expected valid JSON"});
  }
}

TEST(Json, TrailingTextIsAnError) {
  expect_message(error_of("{} x"), {"expected valid JSON", "x"});
  expect_message(error_of("{}{}"), {"expected valid JSON"});
  expect_message(error_of(std::string_view("{}\0garbage", 10)), {"found a NUL at byte 2"});
  EXPECT_TRUE(parse_json(" {} \n\t ", "a.json").ok());
}

TEST(Json, DuplicateKeysAreErrorsAtAnyDepth) {
  expect_message(error_of(R"({"a":1,"b":2,"a":3})"), {"expected each key once", "\"a\" twice"});
  expect_message(error_of(R"([{"x":{"k":1,"\u006b":1}}])"), {"\"k\" twice"});
  EXPECT_TRUE(parse_json(R"([{"a":1},{"a":1}])", "a.json").ok());
}

TEST(Json, DepthIsLimited) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_TRUE(parse_json(nested(64), "a.json").ok());
  expect_message(error_of(nested(65)), {"at most 64 levels"});
  expect_message(error_of(std::string(10'000'000, '[')), {"at most 64 levels"});
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  expect_message(error_of(objects), {"at most 64 levels"});
}

TEST(Json, TheNumberOfValuesIsLimited) {
  EXPECT_TRUE(parse_json("[1,2,3]", "a.json", {.values = 4}).ok());
  expect_message(parse_json("[1,2,3,4]", "a.json", {.values = 4}).status(),
                 {"at most 4 JSON values"});
  expect_message(parse_json("[[],[],[],[]]", "a.json", {.values = 4}).status(),
                 {"at most 4 JSON values"});
}

TEST(Json, OtherEncodingsAreErrors) {
  expect_message(error_of("\"\xff\""), {"not UTF-8"});
  expect_message(error_of("{\"\xc0\x80\":1}"), {"not UTF-8"});
  expect_message(error_of("\"\xed\xa0\x80\""), {"not UTF-8"});
  EXPECT_FALSE(error_of(std::string_view("{\0\"\0", 4)).ok());
}

TEST(Json, ShortenedIsShort) {
  const auto short_form = [](const std::string& text) {
    return shortened(*parse_json(text, "a.json"));
  };
  EXPECT_EQ(short_form("[1, {\"a\": null}]"), "[1,{\"a\":null}]");
  const std::string long_text = short_form("[[[]],\"" + std::string(5000, 'x') + "\",1,2,3]");
  EXPECT_EQ(long_text.size(), 43u);
  EXPECT_TRUE(long_text.ends_with("..."));
}

TEST(Json, QuoteMakesAnyBytesReadable) {
  EXPECT_EQ(quote("plain"), "\"plain\"");
  EXPECT_EQ(quote("a\nb\"c\x1b[31m"), "\"a\\nb\\\"c\\u001b[31m\"");
  EXPECT_EQ(quote("\xff\xc3\xa9"), "\"<ff>\xc3\xa9\"");
  EXPECT_LE(quote(std::string(1000, '\xc3')).size(), 60u);
  std::string accents;
  for (int i = 0; i < 100; ++i) accents += "\xc3\xa9";
  EXPECT_TRUE(is_utf8(quote("x" + accents))) << "cut within a character";
}

TEST(Utf8, WellFormedOnly) {
  for (const char* good : {"", "abc", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
                           "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(is_utf8(good)) << quote(good);
  }
  for (const char* bad : {"\x80", "\xc1\xbf", "\xc2", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xe2\x82",
                          "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "a\xff"}) {
    EXPECT_FALSE(is_utf8(bad)) << quote(bad);
  }
}

}  // namespace
}  // namespace tessera
