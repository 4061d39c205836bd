// Any text through Unigram, with a character map and with other steps before it: what holds for
// every tokenizer.

#include "support/small_tokenizers.h"
#include "support/tokenizer_checks.h"

namespace tessera::fuzz {

void check(std::string_view input) {
  static const std::vector<TokenizerPointer> tokenizers = unigram_tokenizers();
  for (const TokenizerPointer& tokenizer : tokenizers) check_bytes(tokenizer, input, Known::kOurs);
}

}  // namespace tessera::fuzz
