#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/components.h"

namespace tessera::tokenizer {

// What becomes of a delimiter: a piece of its own, nothing, the end of the piece before it, the
// start of the one after it; kContiguous joins delimiters that touch.
enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

// A stretch of a piece; the stretches of one piece cover it in order.
struct Stretch {
  Span span;
  bool is_delimiter = false;
};

// Appends the pieces that a split into stretches leaves.
void append_split(const std::vector<Stretch>& stretches, SplitBehavior behavior,
                  std::vector<Span>& pieces);

// Cuts text [span) as GPT-2's pattern does and appends the pieces:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
void append_gpt2_words(std::string_view text, Span span, std::vector<Span>& pieces);

}  // namespace tessera::tokenizer
