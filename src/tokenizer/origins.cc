#include "tokenizer/origins.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

bool is_space(std::string_view text, size_t pos) {
  const char32_t c = next_character(text, pos);
  return byte_of_spelling(c) == ' ' || (groups_of(c) & character::kSpace) != 0;
}

size_t spaces_before(std::string_view text) {
  size_t count = 0;
  for (size_t pos = 0; pos < text.size() && is_space(text, pos); ++count) {
    pos += character_length(text, pos);
  }
  return count;
}

size_t spaces_after(std::string_view text) {
  size_t count = 0;
  for (size_t end = text.size(); end > 0; ++count) {
    end = previous_character(text, end);
    if (!is_space(text, end)) return count;
  }
  return count;
}

}  // namespace

void assign_with_sources(std::string_view text, Span span, Segment& segment) {
  segment.text.assign(text, span.begin, span.end - span.begin);
  segment.sources.clear();
  for (size_t pos = span.begin; pos < span.end;) {
    const auto begin = static_cast<uint32_t>(pos);
    pos += character_length(text, pos);
    segment.sources.resize(pos - span.begin, {begin, static_cast<uint32_t>(pos)});
  }
}

// Counts the spaces of the token, not of the text: so in the reference. An added token is there the
// text that it was found as.
void trim_spaces(const Pipeline& pipeline, std::string_view text, Tokens& tokens) {
  const SpaceTrim trim = pipeline.special_tokens.space_trim();
  if (trim == SpaceTrim::kNone) return;
  for (size_t i = 0; i < tokens.spans.size(); ++i) {
    Span& span = tokens.spans[i];
    const int32_t id = tokens.ids[i];
    const std::string_view token = pipeline.added.content(id) != nullptr
                                       ? text.substr(span.begin, span.end - span.begin)
                                       : pipeline.model->vocabulary().token(id);
    size_t before = spaces_before(token);
    const bool is_first = i == 0 || span.begin == 0;
    if (trim == SpaceTrim::kAllButAdded && is_first && before == 1) before = 0;
    for (; before > 0 && span.begin < span.end; --before) {
      span.begin += static_cast<uint32_t>(character_length(text, span.begin));
    }
    for (size_t after = spaces_after(token); after > 0 && span.begin < span.end; --after) {
      span.end = static_cast<uint32_t>(previous_character(text, span.end));
    }
  }
}

}  // namespace tessera::tokenizer
