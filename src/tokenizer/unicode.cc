#include "tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>

namespace tessera::tokenizer {
namespace {

constexpr uint16_t ascii_groups(unsigned c) {
  using namespace character;
  if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return kLetter | kWord;
  if (c >= '0' && c <= '9') return kNumber | kWord;
  if (c == ' ') return kSpace;
  if (c >= 9 && c <= 13) return kSpace | kOther;
  if (c < 32 || c == 127) return kOther;
  return c == '_' ? kPunctuation | kWord : kPunctuation;
}

bool is_ideograph(char32_t c) {
  // The blocks of the published BERT code, with the gap before 2B920 that the tokenizers library
  // has.
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

bool is_white_space(char32_t c) {
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// Symbols that count as alphabetic: enclosed Latin letters.
bool is_enclosed_letter(char32_t c) {
  return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

uint16_t category_groups(char32_t c) {
  using namespace character;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return kLetter | kWord;
    case UTF8PROC_CATEGORY_MN:
      return kMark | kNonspacingMark | kWord;
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
      return kMark | kWord;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
      return kNumber | kWord;
    case UTF8PROC_CATEGORY_NO:
      return kNumber;
    case UTF8PROC_CATEGORY_PC:
      return kPunctuation | kWord;
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      return kPunctuation;
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CO:
      return kOther;
    case UTF8PROC_CATEGORY_SO:
      return is_enclosed_letter(c) ? kWord : 0;
    default:
      return 0;
  }
}

// No character below decomposes, none below the other composes with one before it.
constexpr char32_t kLeastDecomposed = 0xA0;
constexpr char32_t kLeastComposed = 0x300;

int combining_class(char32_t c) {
  if (c < kLeastComposed) return 0;
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class;
}

// Brings the marks at the end into their canonical order.
void sort_marks(std::vector<NormalCharacter>& characters, size_t begin) {
  if (characters.size() - begin < 2) return;
  std::stable_sort(characters.begin() + static_cast<std::ptrdiff_t>(begin), characters.end(),
                   [](const NormalCharacter& a, const NormalCharacter& b) {
                     return combining_class(a.character) < combining_class(b.character);
                   });
}

// Appends what c decomposes into; the characters from `sorted` on are marks not yet in order.
void decompose(NormalForm form, char32_t c, std::vector<NormalCharacter>& characters,
               size_t& sorted) {
  const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
  constexpr utf8proc_ssize_t kLongest = 32;  // the longest there is has 18
  utf8proc_int32_t parts[kLongest];
  int bound_class = 0;
  const utf8proc_ssize_t count =
      utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, kLongest,
                              static_cast<utf8proc_option_t>(options), &bound_class);
  for (utf8proc_ssize_t i = 0; i < std::min(count, kLongest); ++i) {
    const auto part = static_cast<char32_t>(parts[i]);
    if (combining_class(part) == 0) {
      sort_marks(characters, sorted);
      characters.push_back({part, i == 0 ? 1u : 0u});
      sorted = characters.size();
    } else {
      characters.push_back({part, i == 0 ? 1u : 0u});
    }
  }
}

// The character that two compose into, 0 when they do not.
char32_t composed(char32_t first, char32_t second) {
  if (second < kLeastComposed) return 0;
  utf8proc_int32_t pair[2] = {static_cast<utf8proc_int32_t>(first),
                              static_cast<utf8proc_int32_t>(second)};
  constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  return utf8proc_normalize_utf32(pair, 2, kOptions) == 1 ? static_cast<char32_t>(pair[0]) : 0;
}

// Unicode 15, section 3.11: every character that nothing blocks joins the last starter.
void compose(std::vector<NormalCharacter>& characters) {
  constexpr size_t kNone = static_cast<size_t>(-1);
  size_t size = 0;
  size_t starter = kNone;
  int last_class = 0;
  for (size_t i = 0; i < characters.size(); ++i) {
    const NormalCharacter c = characters[i];
    const int mark_class = combining_class(c.character);
    if (starter != kNone && (starter + 1 == size || last_class < mark_class)) {
      if (const char32_t both = composed(characters[starter].character, c.character); both != 0) {
        characters[starter] = {both, characters[starter].taken + c.taken};
        continue;
      }
    }
    if (mark_class == 0) starter = size;
    last_class = mark_class;
    characters[size++] = c;
  }
  characters.resize(size);
}

}  // namespace

#define TESSERA_ROW(n)                                                            \
  ascii_groups(n), ascii_groups(n + 1), ascii_groups(n + 2), ascii_groups(n + 3), \
      ascii_groups(n + 4), ascii_groups(n + 5), ascii_groups(n + 6), ascii_groups(n + 7)
const uint16_t kAsciiGroups[128] = {
    TESSERA_ROW(0),  TESSERA_ROW(8),   TESSERA_ROW(16),  TESSERA_ROW(24),
    TESSERA_ROW(32), TESSERA_ROW(40),  TESSERA_ROW(48),  TESSERA_ROW(56),
    TESSERA_ROW(64), TESSERA_ROW(72),  TESSERA_ROW(80),  TESSERA_ROW(88),
    TESSERA_ROW(96), TESSERA_ROW(104), TESSERA_ROW(112), TESSERA_ROW(120)};
#undef TESSERA_ROW

uint16_t groups_above_ascii(char32_t c) {
  uint16_t groups = category_groups(c);
  if (is_white_space(c)) groups |= character::kSpace;
  if (is_ideograph(c)) groups |= character::kIdeograph;
  if (c == 0x200C || c == 0x200D) groups |= character::kWord;
  return groups;
}

void append_lossy(std::string_view bytes, std::string& target) {
  for (size_t pos = 0; pos < bytes.size();) {
    size_t bad = 0;
    if (const size_t length = character_bytes(bytes.substr(pos), &bad); length > 0) {
      target.append(bytes, pos, length);
      pos += length;
    } else {
      target += kReplacementUtf8;
      pos += bad;
    }
  }
}

void append_utf8(char32_t c, std::string& target) {
  const auto push = [&](unsigned value) { target.push_back(static_cast<char>(value)); };
  if (c < 0x80) {
    push(c);
  } else if (c < 0x800) {
    push(0xC0 | c >> 6);
    push(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    push(0xE0 | c >> 12);
    push(0x80 | (c >> 6 & 0x3F));
    push(0x80 | (c & 0x3F));
  } else {
    push(0xF0 | c >> 18);
    push(0x80 | (c >> 12 & 0x3F));
    push(0x80 | (c >> 6 & 0x3F));
    push(0x80 | (c & 0x3F));
  }
}

size_t count_characters(std::string_view text) {
  size_t count = 0;
  for (const char byte : text) count += is_continuation(byte) ? 0 : 1;
  return count;
}

bool is_ascii(std::string_view text) {
  size_t pos = skip_ascii(text, 0);
  while (pos < text.size() && static_cast<unsigned char>(text[pos]) < 0x80) ++pos;
  return pos == text.size();
}

size_t grapheme_end(std::string_view text, size_t pos) {
  utf8proc_int32_t state = 0;
  char32_t left = next_character(text, pos);
  while (pos < text.size()) {
    size_t next = pos;
    const char32_t right = next_character(text, next);
    const bool plain = left < 128 && right < 128 && !(left == '\r' && right == '\n');
    if (plain || utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(left),
                                                  static_cast<utf8proc_int32_t>(right), &state)) {
      break;
    }
    left = right;
    pos = next;
  }
  return pos;
}

void normalize(NormalForm form, std::string_view text, std::vector<NormalCharacter>& characters) {
  characters.clear();
  size_t sorted = 0;  // what lies before the nonstarters at the end
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = next_character(text, pos);
    if (c < kLeastDecomposed) {
      sort_marks(characters, sorted);
      characters.push_back({c, 1});
      sorted = characters.size();
    } else {
      decompose(form, c, characters, sorted);
    }
  }
  sort_marks(characters, sorted);
  if (form == NormalForm::kNfc || form == NormalForm::kNfkc) compose(characters);
}

void append_lowercase(char32_t c, std::string& target) {
  if (c < 0x80) {
    target.push_back(static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c));
  } else if (c == 0x130) {  // the one character whose lowercase is two
    target += "i\xCC\x87";
  } else {
    append_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), target);
  }
}

}  // namespace tessera::tokenizer
