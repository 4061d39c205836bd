#pragma once

#include <string_view>

#include "tokenizer/pipeline.h"

namespace tessera::tokenizer {

// Takes text [span) as it stands into a segment, each byte with its character as the source.
void assign_with_sources(std::string_view text, Span span, Segment& segment);

// Leaves the spaces at the ends of tokens out of their spans, as the pipeline's template says.
void trim_spaces(const Pipeline& pipeline, std::string_view text, Tokens& tokens);

}  // namespace tessera::tokenizer
