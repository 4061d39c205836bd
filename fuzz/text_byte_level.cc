// Any text through byte-level BPE: what holds for every tokenizer, and decoding gives the text.

#include "support/small_tokenizers.h"
#include "support/tokenizer_checks.h"

namespace tessera::fuzz {

void check(std::string_view input) {
  static const std::vector<TokenizerPointer> tokenizers = byte_level_tokenizers();
  for (const TokenizerPointer& tokenizer : tokenizers)
    check_bytes(tokenizer, input, Known::kLossless);
}

}  // namespace tessera::fuzz
