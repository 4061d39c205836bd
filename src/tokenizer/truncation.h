#pragma once

#include <cstddef>
#include <vector>

#include "base/status.h"
#include "tessera/tokenizer.h"
#include "tokenizer/components.h"

namespace tessera::tokenizer {

// Shortens one or two sequences (second may be null) so that with special_tokens more they fit.
Status truncate(const Truncation& truncation, size_t special_tokens, Tokens& first, Tokens* second);

// The windows over so many tokens: at most `room` in each, which repeats the last `overlap` ones of
// the window before it.
Result<std::vector<Span>> windows_over(size_t tokens, size_t room, size_t overlap);

}  // namespace tessera::tokenizer
