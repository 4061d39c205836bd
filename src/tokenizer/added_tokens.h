#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "tokenizer/components.h"

namespace tessera::tokenizer {

// Tokens that are found in the text as they stand, before the model sees it: special ones and
// others.
class AddedTokens {
 public:
  // Reads "added_tokens". Their ids may be those that the model's vocabulary gives the same text,
  // else free ones. more: tokens likewise but for their ids, that are added where they are missing
  // and get the vocabulary's id or the next free one; may be null.
  static Result<AddedTokens> from_json(const JsonValue& json, const Vocabulary& vocabulary,
                                       const JsonValue& more);
  static Result<AddedTokens> from_json(const JsonValue& json, const Vocabulary& vocabulary) {
    return from_json(json, vocabulary, json["none"]);
  }

  // Special tokens that stand in a text are read like the rest of it (split_special_tokens). Before
  // normalize_with().
  void read_special_as_text();

  // Which tokens to look for: those that stand in the text as given, or those of the normalised
  // text.
  enum class Stage { kRaw, kNormalized };
  // What the normalised tokens look like after the normalizers.
  Status normalize_with(const std::vector<std::unique_ptr<Normalizer>>& normalizers,
                        Scratch& scratch);

  // A stretch of text: an added token, or what lies between (token kNoToken).
  struct Stretch {
    Span span;
    int32_t token = kNoToken;
  };
  bool any(Stage stage) const { return !matcher(stage).patterns.empty(); }
  void split(Stage stage, std::string_view text, std::vector<Stretch>& stretches) const;

  const std::string* content(int32_t id) const;  // null when the id is none of these
  int32_t find(std::string_view content) const;  // kNoToken when there is none
  bool is_special(int32_t id) const;
  int32_t id_end() const { return id_end_; }  // the largest id + 1

 private:
  struct Token {
    std::string content;
    int32_t id = kNoToken;
    bool single_word = false;  // only where no word character touches it
    bool lstrip = false;       // takes the spaces before it
    bool rstrip = false;       // and after it
    bool normalized = false;
    bool special = false;
  };
  struct Pattern {
    std::string text;
    uint32_t token;  // index into tokens_
  };
  // The patterns in order; of those that match at a place the longest counts.
  struct Matcher {
    std::vector<Pattern> patterns;
    std::array<bool, 256> starts{};
    void finish();
    const Pattern* match(std::string_view text, size_t at) const;
  };
  const Matcher& matcher(Stage stage) const { return stage == Stage::kRaw ? raw_ : normalized_; }
  Status add(const JsonValue& json, const Vocabulary& vocabulary, int64_t largest_id);
  Status add_missing(const JsonValue& json, const Vocabulary& vocabulary);
  static Result<Token> read_token(const JsonValue& json);
  void push(const Token& token, Span match, std::string_view text, uint32_t& done,
            std::vector<Stretch>& stretches) const;

  std::vector<Token> tokens_;
  std::unordered_map<int32_t, uint32_t> by_id_;
  std::unordered_map<std::string, uint32_t> by_content_;
  Matcher raw_;
  Matcher normalized_;
  int32_t id_end_ = 0;
};

}  // namespace tessera::tokenizer
