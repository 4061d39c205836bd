#include "tokenizer/split.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

void push(Span span, std::vector<Span>& pieces) {
  if (span.begin < span.end) pieces.push_back(span);
}

void append_contiguous(const std::vector<Stretch>& stretches, std::vector<Span>& pieces) {
  for (size_t i = 0; i < stretches.size();) {
    size_t last = i;
    while (last + 1 < stretches.size() &&
           stretches[last + 1].is_delimiter == stretches[i].is_delimiter) {
      ++last;
    }
    push({stretches[i].span.begin, stretches[last].span.end}, pieces);
    i = last + 1;
  }
}

// Where delimiters touch, only the first belongs to the piece before, as in the reference.
void append_merged_with_previous(const std::vector<Stretch>& stretches, std::vector<Span>& pieces) {
  for (size_t i = 0; i < stretches.size(); ++i) {
    Span span = stretches[i].span;
    const bool joins =
        !stretches[i].is_delimiter && i + 1 < stretches.size() && stretches[i + 1].is_delimiter;
    if (joins) span.end = stretches[++i].span.end;
    push(span, pieces);
  }
}

// Where delimiters touch, only the last belongs to the piece after.
void append_merged_with_next(const std::vector<Stretch>& stretches, std::vector<Span>& pieces) {
  for (size_t i = 0; i < stretches.size(); ++i) {
    Span span = stretches[i].span;
    const bool joins =
        stretches[i].is_delimiter && i + 1 < stretches.size() && !stretches[i + 1].is_delimiter;
    if (joins) span.end = stretches[++i].span.end;
    push(span, pieces);
  }
}

constexpr uint16_t kGpt2Groups = character::kLetter | character::kNumber | character::kSpace;

// The end of the run of characters, from pos on, whose groups are the given ones.
uint32_t end_of_run(std::string_view text, size_t pos, uint32_t end, uint16_t groups) {
  while (pos < end) {
    size_t next = pos;
    if ((groups_of(next_character(text, next)) & kGpt2Groups) != groups) break;
    pos = next;
  }
  return static_cast<uint32_t>(pos);
}

// Length of 's 't 're 've 'm 'll 'd at pos, else 0.
uint32_t contraction_length(std::string_view text, uint32_t pos, uint32_t end) {
  const std::string_view rest = text.substr(pos + 1, std::min<uint32_t>(2, end - pos - 1));
  if (rest.empty()) return 0;
  if (rest[0] == 's' || rest[0] == 't' || rest[0] == 'm' || rest[0] == 'd') return 2;
  return rest == "re" || rest == "ve" || rest == "ll" ? 3 : 0;
}

}  // namespace

void append_split(const std::vector<Stretch>& stretches, SplitBehavior behavior,
                  std::vector<Span>& pieces) {
  switch (behavior) {
    case SplitBehavior::kIsolated:
      for (const Stretch& stretch : stretches) push(stretch.span, pieces);
      break;
    case SplitBehavior::kRemoved:
      for (const Stretch& stretch : stretches) {
        if (!stretch.is_delimiter) push(stretch.span, pieces);
      }
      break;
    case SplitBehavior::kMergedWithPrevious:
      append_merged_with_previous(stretches, pieces);
      break;
    case SplitBehavior::kMergedWithNext:
      append_merged_with_next(stretches, pieces);
      break;
    case SplitBehavior::kContiguous:
      append_contiguous(stretches, pieces);
      break;
  }
}

void append_gpt2_words(std::string_view text, Span span, std::vector<Span>& pieces) {
  for (uint32_t begin = span.begin; begin < span.end;) {
    size_t next = begin;
    uint16_t groups = groups_of(next_character(text, next)) & kGpt2Groups;
    uint32_t end = 0;
    if (text[begin] == '\'' && (end = contraction_length(text, begin, span.end)) > 0) {
      end += begin;
    } else if (groups != character::kSpace) {
      end = end_of_run(text, next, span.end, groups);
    } else {
      size_t after = next;
      const uint16_t following = next < span.end
                                     ? groups_of(next_character(text, after)) & kGpt2Groups
                                     : character::kSpace;
      if (text[begin] == ' ' && following != character::kSpace) {
        end = end_of_run(text, after, span.end, following);
      } else {
        end = end_of_run(text, next, span.end, character::kSpace);
        // The last space before a word stays for the word, unless it is the only one.
        const auto last = static_cast<uint32_t>(previous_character(text, end));
        if (end < span.end && last > begin) end = last;
      }
    }
    pieces.push_back({begin, end});
    begin = end;
  }
}

}  // namespace tessera::tokenizer
