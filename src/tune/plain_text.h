#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "tune/examples.h"
#include "tune/text_encoder.h"

namespace tessera::training {

struct Lines {
  ExampleList examples;
  int64_t cut = 0;  // texts that were longer than max_tokens
};

// Plain text, in files of a text a line, and in JSON lines (.jsonl, .ndjson, .json) with a text
// under "text" in each. kInvalidInput names the file and the line of what is not UTF-8 or no text,
// and the files where they hold no text.

// A sequence for each text, with the special tokens around it; what has no other token is none.
// special_ids: more ids that are not counted as text.
Result<Lines> read_lines(const TextEncoder& encoder, const std::vector<std::string>& paths,
                         const std::vector<int32_t>& special_ids = {});

// All texts as one stream: each line with its line feed and the special tokens that the tokenizer
// puts around a text, as transformers' run_clm.py has it. A text of JSON lines is followed by the
// model's end token or, where it has none, a line feed. At least `least` tokens.
Result<std::vector<int32_t>> read_stream(const TextEncoder& encoder,
                                         const std::vector<std::string>& paths, size_t least);

}  // namespace tessera::training
