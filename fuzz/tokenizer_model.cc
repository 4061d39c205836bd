// Any bytes as a tokenizer.model are refused with a sentence, or give a tokenizer whose ids lie in
// its vocabulary and whose texts are UTF-8.

#include "support/tokenizer_checks.h"

namespace tessera::fuzz {

void check(std::string_view input) {
  check_tokenizer(Tokenizer::from_sentence_piece(input, "fuzz"), input);
}

}  // namespace tessera::fuzz
