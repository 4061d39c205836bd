#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace tessera::tokenizer {

// The parts of a tokenizer.json, as JSON text.
struct Parts {
  std::string model;
  std::string normalizer = "null";
  std::string pre_tokenizer = "null";
  std::string post_processor = "null";
  std::string decoder = "null";
  std::string added_tokens = "[]";
};

inline std::string to_json(const Parts& parts) {
  return R"({"version": "1.0", "truncation": {"max_length": 1}, "padding": {"strategy": "BatchLongest"}, "model": )" +
         parts.model + R"(, "normalizer": )" + parts.normalizer + R"(, "pre_tokenizer": )" +
         parts.pre_tokenizer + R"(, "post_processor": )" + parts.post_processor +
         R"(, "decoder": )" + parts.decoder + R"(, "added_tokens": )" + parts.added_tokens + "}";
}

inline Result<std::shared_ptr<const Tokenizer>> load(const Parts& parts) {
  return Tokenizer::from_json(to_json(parts), "tokenizer.json");
}

// The message of the error that loading gives; empty when it gives none.
inline std::string load_error(const std::string& json) {
  const auto made = Tokenizer::from_json(json, "tokenizer.json");
  return made.ok() ? "" : made.status().message();
}

// The tokens of a text without special tokens, or "error: <message>".
inline std::vector<std::string> tokens_of(const Parts& parts, std::string_view text) {
  const auto made = load(parts);
  if (!made.ok()) return {"error: " + made.status().message()};
  const auto encoding = (*made)->encode({text}, {.special = SpecialTokens::kOmit});
  if (!encoding.ok()) return {"error: " + encoding.status().message()};
  std::vector<std::string> tokens;
  for (const int32_t id : encoding->ids) tokens.push_back((*made)->token_of(id));
  return tokens;
}

using Strings = std::vector<std::string>;

// A BPE model without merges whose vocabulary is the printable ASCII characters and a few others.
inline std::string character_model() {
  std::string vocabulary;
  int id = 0;
  const auto add = [&](const std::string& token) {
    vocabulary += (id == 0 ? "\"" : ", \"") + token + "\": " + std::to_string(id);
    ++id;
  };
  add("<unk>");
  for (char c = ' '; c < 127; ++c) {
    add(c == '"' || c == '\\' ? std::string("\\") + c : std::string(1, c));
  }
  for (const char* other : {"\xE2\x96\x81", "\xC3\xA9", "\xC4\xA0", "\xC4\x8A"}) add(other);
  return R"({"type": "BPE", "unk_token": "<unk>", "merges": [], "vocab": {)" + vocabulary + "}}";
}

// The pieces that a pre-tokenizer makes, joined by '|': what the model sees one by one.
inline std::string pieces_of(const std::string& pre_tokenizer, std::string_view text,
                             const std::string& normalizer = "null") {
  // With a suffix on the last character of a word the ends of the pieces show.
  std::string vocabulary;
  int id = 0;
  for (int c = ' '; c < 127; ++c) {
    std::string token = c == '"' || c == '\\' ? std::string("\\") + static_cast<char>(c)
                                              : std::string(1, static_cast<char>(c));
    for (const char* suffix : {"", "|"}) {
      if (c == '|') continue;
      vocabulary += (id == 0 ? "\"" : ", \"") + token + suffix + "\": " + std::to_string(id);
      ++id;
    }
  }
  for (const char* other : {"\xE2\x96\x81", "\xC3\xA9", "\xC4\xA0", "\xC4\x8A", "\\n", "\\t"}) {
    for (const char* suffix : {"", "|"}) {
      vocabulary += std::string(", \"") + other + suffix + "\": " + std::to_string(id);
      ++id;
    }
  }
  Parts parts;
  parts.model =
      R"({"type": "BPE", "end_of_word_suffix": "|", "merges": [], "vocab": {)" + vocabulary + "}}";
  parts.pre_tokenizer = pre_tokenizer;
  parts.normalizer = normalizer;
  std::string joined;
  for (const std::string& token : tokens_of(parts, text)) joined += token;
  return joined;
}

}  // namespace tessera::tokenizer
