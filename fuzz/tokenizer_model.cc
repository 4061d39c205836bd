// Any bytes as a tokenizer.model are refused with a sentence, or give a tokenizer whose ids lie in
// its vocabulary and whose texts are UTF-8.

#include "tokenizer_checks.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  tessera::fuzz::check_tokenizer(tessera::Tokenizer::from_sentence_piece(file, "fuzz"), file);
  return 0;
}
