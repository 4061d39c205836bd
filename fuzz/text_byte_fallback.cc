// Any text through BPE that falls back to bytes: what holds for every tokenizer, and decoding gives
// the text, unless that has the character that stands for a space.

#include "support/small_tokenizers.h"
#include "support/tokenizer_checks.h"

namespace tessera::fuzz {

void check(std::string_view input) {
  static const TokenizerPointer tokenizer = byte_fallback_tokenizer();
  const bool is_lossless = input.find("\xE2\x96\x81") == input.npos;
  check_bytes(tokenizer, input, is_lossless ? Known::kLossless : Known::kOurs);
}

}  // namespace tessera::fuzz
