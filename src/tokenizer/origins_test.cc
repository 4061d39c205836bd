#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tokenizer/testing.h"

namespace tessera::tokenizer {
namespace {

using Json = nlohmann::json;

// What the `tokenizers` library says, as tools/tokenizer_origins.py wrote it: texts and, by
// tokenizer, the origins of their tokens. Small tokenizers stand here, others in the shared data.
struct Row {
  std::string_view kind;
  const char* json;
};
constexpr Row kExpected[] = {
#include "tokenizer/origins_expected.inc"
};

// Calls check(tokenizer, what is expected of it, the texts) for every tokenizer at hand.
template <typename Check>
void for_each_tokenizer(const Check& check) {
  Json models, texts;
  std::string absent;
  for (const Row& row : kExpected) {
    const Json json = Json::parse(row.json);
    if (row.kind == "model") models[json["name"].get<std::string>()] = json["model"];
    if (row.kind == "texts") texts = json;
    if (row.kind != "tokenizer") continue;
    SCOPED_TRACE(json["name"].get<std::string>());
    auto made = Result<std::shared_ptr<const Tokenizer>>(std::shared_ptr<const Tokenizer>());
    if (json.contains("json")) {
      Json document = json["json"];
      document["model"] = models[document["model"].get<std::string>()];
      made = Tokenizer::from_json(document.dump(), "tokenizer.json");
    } else {
      const char* shared = std::getenv("TESSERA_SHARED");
      const auto path = std::filesystem::path(shared == nullptr ? "" : shared) /
                        json["directory"].get<std::string>();
      if (shared == nullptr || !std::filesystem::exists(path)) {
        absent += " " + path.string();
        continue;
      }
      made = Tokenizer::open(path.string());
    }
    ASSERT_TRUE(made.ok()) << made.status().message();
    check(**made, json, texts);
  }
  if (!absent.empty()) GTEST_SKIP() << "not in TESSERA_SHARED:" << absent;
}

// As the script writes them.
std::string text_of(const std::vector<TokenOrigin>& origins) {
  std::string text;
  for (const TokenOrigin& origin : origins) {
    if (!text.empty()) text += ' ';
    text += origin.text < 0
                ? "."
                : fmt::format("{}{}-{}", origin.text == 1 ? "+" : "", origin.begin, origin.end);
  }
  return text;
}

void expect_origins(const Tokenizer& tokenizer, const TextPair& text, const Json& wanted) {
  SCOPED_TRACE(Json(text.first).dump());
  const auto made = tokenizer.encode(text, {.origins = Origins::kGive});
  ASSERT_TRUE(made.ok()) << made.status().message();
  EXPECT_EQ(text_of(made->origins), wanted.get<std::string>());
  EXPECT_EQ(made->origins.size(), made->ids.size());
  const auto plain = tokenizer.encode(text);
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->ids, made->ids);
  EXPECT_EQ(plain->type_ids, made->type_ids);
  EXPECT_TRUE(plain->origins.empty());
}

TEST(Origins, AreThoseOfTheReference) {
  for_each_tokenizer([](const Tokenizer& tokenizer, const Json& wanted, const Json& texts) {
    for (size_t i = 0; i < texts["texts"].size(); ++i) {
      expect_origins(tokenizer, {texts["texts"][i].get<std::string>()}, wanted["texts"][i]);
    }
    for (size_t i = 0; i < texts["pairs"].size(); ++i) {
      const Json& pair = texts["pairs"][i];
      expect_origins(tokenizer, {pair[0].get<std::string>(), pair[1].get<std::string>()},
                     wanted["pairs"][i]);
    }
  });
}

// There the library gives no texts, and 0-0 for what was added.
std::string places_of(const Encoding& encoding) {
  std::string text;
  for (const TokenOrigin& origin : encoding.origins) {
    text += fmt::format("{}{}-{}", text.empty() ? "" : " ", origin.begin, origin.end);
  }
  return text;
}

TEST(Windows, AreThoseOfTheReference) {
  for_each_tokenizer([](const Tokenizer& tokenizer, const Json& wanted, const Json& texts) {
    const auto first = texts["windowed"][0].get<std::string>();
    const auto second = texts["windowed"][1].get<std::string>();
    for (const Json& one : wanted["windows"]) {
      SCOPED_TRACE(
          fmt::format("{} tokens, {} shared", one["size"].get<int>(), one["overlap"].get<int>()));
      const auto made = tokenizer.encode_windows({first, second}, one["size"].get<size_t>(),
                                                 one["overlap"].get<size_t>());
      ASSERT_TRUE(made.ok()) << made.status().message();
      std::vector<std::string> places;
      for (const Encoding& window : *made) {
        EXPECT_EQ(window.type_ids.size(), window.ids.size());
        EXPECT_EQ(window.truncated, made->size() > 1);
        places.push_back(places_of(window));
      }
      EXPECT_EQ(places, one["windows"].get<std::vector<std::string>>());
    }
  });
}

}  // namespace
}  // namespace tessera::tokenizer
