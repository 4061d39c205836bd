#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "support/target.h"
#include "tokenizer/tokenizer.h"

namespace tessera::fuzz {

// What is known of a tokenizer: one of a fuzzed file; one of ours, which has a token for every text
// and no decoder that looks ahead; and one whose decoding gives the text that was encoded.
enum class Known { kNothing, kOurs, kLossless };

// Aborts unless all of this holds: a refusal says why; ids lie in the vocabulary, have a type and
// an origin each; an origin lies in the text, at characters, not before the one before; texts that
// come back are UTF-8, and as a stream the same; a truncated encoding is a beginning of the whole;
// windows make up the text; threads change nothing.
void check_text(const std::shared_ptr<const Tokenizer>& tokenizer, std::string_view text,
                Known known);

// A refusal that says why, or a tokenizer that keeps to the above with texts of many kinds.
void check_tokenizer(const Result<std::shared_ptr<const Tokenizer>>& made, std::string_view file);

// check_text for the bytes and, where they are not UTF-8, for what remains without the wrong ones.
void check_bytes(const std::shared_ptr<const Tokenizer>& tokenizer, std::string_view bytes,
                 Known known);

}  // namespace tessera::fuzz
