#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "tokenizer/tokenizer.h"

namespace tessera::tokenizer {

// Shortens one or two sequences (second may be null) so that with special_tokens more they fit.
Status truncate(const Truncation& truncation, size_t special_tokens, std::vector<int32_t>& first,
                std::vector<int32_t>* second);

}  // namespace tessera::tokenizer
