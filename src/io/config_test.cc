#include "io/config.h"

#include "io/testing.h"

namespace tessera {
namespace {

using testing::expect_message;
using Truth = Config::Truth;

Config parsed(std::string_view json) {
  Result<Config> config = Config::parse(json, "config.json");
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? *config : Config();
}

TEST(Config, IntegersWithinTheirRange) {
  const Config config =
      parsed(R"({"a":7,"big":9223372036854775808,"text":"abc","half":1.5,"none":null})");
  EXPECT_EQ(*config.integer("a", 1, 7), 7);
  expect_message(config.integer("a", 8, 100).status(),
                 {"config.json: a: expected an integer from 8 to 100, found 7"});
  expect_message(config.integer("big", 0, INT64_MAX).status(), {"found 9223372036854775808"});
  expect_message(config.integer("text", 1, 2147483647).status(),
                 {"config.json: text: expected an integer from 1 to 2147483647, found \"abc\""});
  expect_message(config.integer("half", 0, 9).status(), {"found 1.5"});
  expect_message(config.integer("missing", 0, 9).status(),
                 {"config.json: missing", "found nothing"});
  expect_message(config.integer("none", 0, 9).status(), {"found null"});
  EXPECT_EQ(*config.integer_or("missing", 3, 5, 9), 3);
  EXPECT_EQ(*config.integer_or("none", 3, 5, 9), 3);
  EXPECT_EQ(*config.integer_or("a", 3, 5, 9), 7);
  EXPECT_FALSE(config.integer_or("text", 3, 5, 9).ok());
}

TEST(Config, NumbersStringsAndTruths) {
  const Config config = parsed(
      R"({"eps":1e-12,"n":3,"u":18446744073709551615,"s":"x","t":true,"f":false,"none":null})");
  EXPECT_EQ(*config.number_or("eps", 1), 1e-12);
  EXPECT_EQ(*config.number_or("n", 1), 3.0);
  EXPECT_EQ(*config.number_or("u", 1), 18446744073709551616.0);
  EXPECT_EQ(*config.number_or("none", 2.5), 2.5);
  EXPECT_EQ(*config.number("n"), 3.0);
  expect_message(config.number("none").status(), {"none: expected a finite number, found null"});
  expect_message(config.number("gone").status(), {"gone: expected a finite number, found nothing"});
  expect_message(config.number_or("s", 1).status(),
                 {"config.json: s: expected a finite number, found \"x\""});
  EXPECT_EQ(*config.string("s"), "x");
  EXPECT_EQ(*config.string_or("none", "y"), "y");
  expect_message(config.string("n").status(), {"n: expected a string, found 3"});
  expect_message(config.string("gone").status(), {"gone: expected a string, found nothing"});
  expect_message(config.string_or("t", "y").status(), {"expected a string, found true"});
  EXPECT_EQ(*config.truth_or("t", Truth::kNo), Truth::kYes);
  EXPECT_EQ(*config.truth_or("f", Truth::kYes), Truth::kNo);
  EXPECT_EQ(*config.truth_or("none", Truth::kYes), Truth::kYes);
  expect_message(config.truth_or("n", Truth::kNo).status(), {"n: expected true or false, found 3"});
}

TEST(Config, HasAndKeys) {
  const Config config = parsed(R"({"b":1,"a":null})");
  EXPECT_TRUE(config.has("b"));
  EXPECT_FALSE(config.has("a"));
  EXPECT_FALSE(config.has("c"));
  EXPECT_EQ(config.keys(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(config.dump(), R"({"a":null,"b":1})");
  EXPECT_EQ(Config().keys().size(), 0u);
  EXPECT_EQ(Config().dump(), "{}");
}

TEST(Config, ChildrenNameTheirParentAndOutliveIt) {
  Config child;
  {
    const Config config = parsed(R"({"rope":{"theta":1e4,"deep":{"x":"y"}},"n":3})");
    child = *config.child("rope");
    expect_message(config.child("n").status(), {"config.json: n: expected an object, found 3"});
    EXPECT_EQ(config.child("gone")->keys().size(), 0u);
    EXPECT_EQ(config.child("gone")->source(), "config.json: gone");
  }
  EXPECT_EQ(child.source(), "config.json: rope");
  EXPECT_EQ(*child.number_or("theta", 0), 1e4);
  expect_message(child.child("deep")->integer("x", 0, 1).status(),
                 {"config.json: rope: deep: x: expected"});
}

TEST(Config, ListsOfStringsAndIntegers) {
  const Config config =
      parsed(R"({"s":["a","b"],"mixed":["a",1],"one":5,"many":[1,2],"half":[1,2.5],"o":{}})");
  EXPECT_EQ(*config.strings("s"), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(config.strings("gone")->empty());
  expect_message(config.strings("mixed").status(), {"mixed: expected a list of strings, found 1"});
  expect_message(config.strings("one").status(), {"found 5"});
  EXPECT_EQ(*config.integers("one"), std::vector<int64_t>{5});
  EXPECT_EQ(*config.integers("many"), (std::vector<int64_t>{1, 2}));
  EXPECT_TRUE(config.integers("gone")->empty());
  expect_message(config.integers("half").status(),
                 {"half: expected an integer or a list of integers, found 2.5"});
  expect_message(config.integers("o").status(), {"found {}"});
  EXPECT_EQ(*config.numbers("half"), (std::vector<double>{1, 2.5}));
  EXPECT_TRUE(config.numbers("gone")->empty());
  expect_message(config.numbers("s").status(),
                 {"s: expected a list of finite numbers, found \"a\""});
  expect_message(config.numbers("one").status(), {"found 5"});
}

TEST(Config, StringsByIndexWithoutHoles) {
  const Config config = parsed(
      R"({"ok":{"1":"b","0":"a","2":"c"},"hole":{"0":"a","2":"b"},"zero":{"00":"a"},"sign":{"+0":"a"},
          "word":{"x":"a"},"empty_key":{"":"a"},"number":{"0":1},"huge":{"99999999999999999999":"a"},"list":["a"],
          "eleven":{"0":"a","1":"b","2":"c","3":"d","4":"e","5":"f","6":"g","7":"h","8":"i","9":"j","10":"k"}})");
  EXPECT_EQ(*config.strings_by_index("ok"), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(config.strings_by_index("eleven")->at(10), "k");
  EXPECT_TRUE(config.strings_by_index("gone")->empty());
  expect_message(config.strings_by_index("hole").status(),
                 {"hole: expected the keys \"0\" to \"1\", found \"2\""});
  for (const char* key : {"zero", "sign", "word", "empty_key", "huge"}) {
    expect_message(config.strings_by_index(key).status(),
                   {key, "expected the keys \"0\" to \"0\""});
  }
  expect_message(config.strings_by_index("number").status(),
                 {"number: 0: expected a string, found 1"});
  expect_message(config.strings_by_index("list").status(), {"list: expected an object"});
}

TEST(Config, LongValuesAreShortenedInMessages) {
  const Config config = parsed("{\"a\":\"" + std::string(100000, 'x') + "\"}");
  const Status status = config.integer("a", 0, 1).status();
  expect_message(status, {"xxx..."});
  EXPECT_LT(status.message().size(), 120u);
}

TEST(Config, OnlyAnObjectWillDo) {
  expect_message(Config::parse("[1]", "config.json").status(),
                 {"config.json: expected a JSON object, found [1]"});
  expect_message(Config::parse("", "config.json").status(), {"config.json: expected valid JSON"});
}

TEST(Config, ReadsFiles) {
  const testing::TempDir dir;
  const Result<Config> config = Config::read(dir.put("config.json", "{\"a\":1}"));
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->source(), dir / "config.json");
  expect_message(Config::read(dir / "gone.json").status(),
                 {"gone.json: cannot open: No such file"});
  expect_message(Config::read(dir.path()).status(), {"expected a regular file, found a directory"});
}

}  // namespace
}  // namespace tessera
