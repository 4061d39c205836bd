#pragma once

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace tessera::fuzz {

inline void require(bool condition) {
  if (!condition) std::abort();
}

// What holds for every tokenizer and text: a refusal says why; ids lie in the vocabulary, have a
// type each, and decode to UTF-8.
inline void check_text(const Tokenizer& tokenizer, std::string_view text) {
  const auto encoding = tokenizer.encode({text});
  if (!encoding.ok()) {
    require(!encoding.status().message().empty());
    return;
  }
  require(encoding->type_ids.size() == encoding->ids.size());
  for (const int32_t id : encoding->ids) require(id >= 0 && id < tokenizer.vocabulary_size());
  for (const DecodeSpecial special : {DecodeSpecial::kKeep, DecodeSpecial::kSkip}) {
    const auto decoded = tokenizer.decode(encoding->ids, special);
    require(decoded.ok() ? tokenizer::find_invalid_utf8(*decoded) == std::string_view::npos
                         : !decoded.status().message().empty());
  }
}

// A refusal that says why, or a tokenizer that keeps to the above with texts of many kinds.
inline void check_tokenizer(const Result<std::shared_ptr<const Tokenizer>>& made,
                            std::string_view file) {
  if (!made.ok()) {
    require(!made.status().message().empty());
    return;
  }
  for (const std::string_view text :
       {std::string_view(), std::string_view("a"), std::string_view("  ab bc<s> it's 12 \xC3\xA9"),
        std::string_view("\xE2\x96\x81\xE4\xB8\xAD\r\n e\xCC\x81\xF0\x9F\x98\x80"),
        std::string_view("a\0b", 3), file.substr(0, 200)}) {
    check_text(**made, text);
  }
  (void)(*made)->encode({"a b", "ab"});
}

}  // namespace tessera::fuzz
