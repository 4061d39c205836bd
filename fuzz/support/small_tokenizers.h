#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace tessera::fuzz {

using TokenizerPointer = std::shared_ptr<const Tokenizer>;

// Small tokenizers of every kind, each with a token for every text. Aborts where one of them does
// not load.

// Bytes spelled as characters, with the patterns of GPT-2, Llama 3 and Qwen 2. Lossless.
std::vector<TokenizerPointer> byte_level_tokenizers();
// As Llama 2 has it: lossless for texts without U+2581.
TokenizerPointer byte_fallback_tokenizer();
// As BERT has it, without and with the changes to the text.
std::vector<TokenizerPointer> word_piece_tokenizers();
// As T5 and XLM-RoBERTa have it, with a character map; and with other steps before.
std::vector<TokenizerPointer> unigram_tokenizers();
// tokenizer.model of both algorithms.
std::vector<TokenizerPointer> sentence_piece_tokenizers();

}  // namespace tessera::fuzz
