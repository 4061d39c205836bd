#pragma once

#include <cstdint>
#include <string_view>

#include "tessera/tokenizer.h"

namespace tessera::tasks {

// Tells where words begin, as far as a vocabulary and the text show it.
class WordRule {
 public:
  // May be null: nothing is known of words then.
  explicit WordRule(const Tokenizer* tokenizer);

  // Whether a token that begins at this byte of the text is part of the word before it. WordPiece
  // spells such tokens "##..."; elsewhere they stand between two letters or digits of a script that
  // parts words by spaces.
  bool continues(std::string_view text, int32_t id, int64_t begin_byte) const;

 private:
  enum class Marks { kNone, kContinuations, kLetters };
  const Tokenizer* tokenizer_;
  Marks marks_ = Marks::kNone;
};

}  // namespace tessera::tasks
