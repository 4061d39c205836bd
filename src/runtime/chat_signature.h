#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/status.h"

namespace tessera {

// What a chat template (Jinja) does, without what does not matter: spaces, quotes and control of
// whitespace are normalised as the template engine of transformers sees them (trim_blocks and
// lstrip_blocks), comments and the wording of exceptions are left out.
struct ChatSignature {
  // FNV-1a of the normalised template. Equal: the templates write the same text but for `texts`.
  uint64_t hash = 0;
  // System prompts that the template itself holds, in their order; no part of the hash.
  std::vector<std::string> texts;
};
Result<ChatSignature> chat_signature(std::string_view chat_template);

}  // namespace tessera
