#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/utf8.h"

// UTF-8 and the character properties that tokenizers ask for. Functions that take text need
// well-formed UTF-8 (find_invalid_utf8 tells), but for append_lossy.
namespace tessera::tokenizer {

inline constexpr char32_t kReplacement = 0xFFFD;
inline constexpr std::string_view kReplacementUtf8 = "\xEF\xBF\xBD";

// Appends bytes as text: every maximal ill-formed stretch becomes one U+FFFD (Unicode 15,
// section 3.9).
void append_lossy(std::string_view bytes, std::string& target);

// Reads the character at pos and moves pos past it.
inline char32_t next_character(std::string_view text, size_t& pos) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[pos + i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) {
    pos += 1;
    return lead;
  }
  char32_t character;
  if (lead < 0xE0) {
    character = (lead & 0x1F) << 6 | (byte(1) & 0x3F);
    pos += 2;
  } else if (lead < 0xF0) {
    character = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    pos += 3;
  } else {
    character =
        (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
    pos += 4;
  }
  return character;
}

inline bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

// Start of the character that ends at end > 0.
inline size_t previous_character(std::string_view text, size_t end) {
  do {
    --end;
  } while (end > 0 && is_continuation(text[end]));
  return end;
}

// End of the extended grapheme cluster that begins at pos (Unicode annex 29).
size_t grapheme_end(std::string_view text, size_t pos);

void append_utf8(char32_t character, std::string& target);
size_t count_characters(std::string_view text);
bool is_ascii(std::string_view text);

// Groups of characters; one character may be in several.
namespace character {
inline constexpr uint16_t kLetter = 1;           // L
inline constexpr uint16_t kNumber = 2;           // N
inline constexpr uint16_t kSpace = 4;            // White_Space
inline constexpr uint16_t kPunctuation = 8;      // P, or an ASCII symbol
inline constexpr uint16_t kMark = 16;            // M
inline constexpr uint16_t kNonspacingMark = 32;  // Mn
inline constexpr uint16_t kOther = 64;           // Cc, Cf, Co
inline constexpr uint16_t kWord = 128;           // letters, marks, digits, connectors, joiners
inline constexpr uint16_t kIdeograph = 256;      // what BERT sets apart with spaces
}  // namespace character

uint16_t groups_above_ascii(char32_t character);
extern const uint16_t kAsciiGroups[128];

inline uint16_t groups_of(char32_t character) {
  return character < 128 ? kAsciiGroups[character] : groups_above_ascii(character);
}

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
// A character of a normal form and how many characters of the text it takes the place of, of those
// that are left: none where a character became several, more where several became one.
struct NormalCharacter {
  char32_t character = 0;
  uint32_t taken = 0;
};
// Replaces characters by those of the normal form of the text.
void normalize(NormalForm form, std::string_view text, std::vector<NormalCharacter>& characters);
// Appends the lowercase of one character, without regard to its neighbours.
void append_lowercase(char32_t character, std::string& target);

}  // namespace tessera::tokenizer
