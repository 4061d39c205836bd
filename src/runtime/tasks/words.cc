#include "runtime/tasks/words.h"

#include <string>

namespace tessera::tasks {
namespace {

// The character that begins at a byte; the text is UTF-8, which tokenizers have checked.
char32_t character_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const char32_t lead = byte(at);
  if (lead < 0x80) return lead;
  if (lead < 0xE0) return (lead & 0x1F) << 6 | (byte(at + 1) & 0x3F);
  if (lead < 0xF0) {
    return (lead & 0x0F) << 12 | (byte(at + 1) & 0x3F) << 6 | (byte(at + 2) & 0x3F);
  }
  return 0x10000;  // none of the scripts below
}

size_t begin_of_character_before(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

// Letters and digits of the scripts below U+0E00 (Latin to Sinhala) and Hangul. Thai and its
// neighbours, kana and Han have words without spaces between them.
bool is_of_spaced_word(char32_t c) {
  if (c < 0x80) return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
  if (c == 0xD7 || c == 0xF7) return false;  // the signs for times and divided by
  return (c >= 0xC0 && c < 0xE00) || (c >= 0xAC00 && c <= 0xD7A3);
}

}  // namespace

WordRule::WordRule(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {
  if (tokenizer == nullptr) return;
  marks_ = Marks::kLetters;
  // A WordPiece vocabulary has pieces of one letter.
  for (const char* piece : {"##a", "##e", "##s"}) {
    if (tokenizer->id_of(piece)) marks_ = Marks::kContinuations;
  }
}

bool WordRule::continues(std::string_view text, int32_t id, int64_t begin_byte) const {
  const size_t begin = static_cast<size_t>(begin_byte);
  if (marks_ == Marks::kNone || begin == 0 || begin >= text.size()) return false;
  if (marks_ == Marks::kContinuations) {
    const std::string spelled = tokenizer_->token_of(id);
    return spelled.size() > 2 && spelled.starts_with("##") && !text.substr(begin).starts_with("##");
  }
  return is_of_spaced_word(character_at(text, begin)) &&
         is_of_spaced_word(character_at(text, begin_of_character_before(text, begin)));
}

}  // namespace tessera::tasks
