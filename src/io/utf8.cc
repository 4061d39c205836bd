#include "io/utf8.h"

#include <cstdint>
#include <cstring>

namespace tessera {

size_t character_bytes(std::string_view text, size_t* ill_formed) {
  size_t ignored = 0;
  size_t& bad = ill_formed != nullptr ? *ill_formed : ignored;
  const auto byte = [&](size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const auto in = [](unsigned value, unsigned least, unsigned most) {
    return value >= least && value <= most;
  };
  const unsigned lead = byte(0);
  bad = 1;
  if (lead < 0x80) return 1;
  if (in(lead, 0xC2, 0xDF)) return in(byte(1), 0x80, 0xBF) ? 2 : 0;
  if (in(lead, 0xE0, 0xEF)) {
    const unsigned least = lead == 0xE0 ? 0xA0 : 0x80;
    const unsigned most = lead == 0xED ? 0x9F : 0xBF;
    if (!in(byte(1), least, most)) return 0;
    bad = 2;
    return in(byte(2), 0x80, 0xBF) ? 3 : 0;
  }
  if (in(lead, 0xF0, 0xF4)) {
    const unsigned least = lead == 0xF0 ? 0x90 : 0x80;
    const unsigned most = lead == 0xF4 ? 0x8F : 0xBF;
    if (!in(byte(1), least, most)) return 0;
    bad = 2;
    if (!in(byte(2), 0x80, 0xBF)) return 0;
    bad = 3;
    return in(byte(3), 0x80, 0xBF) ? 4 : 0;
  }
  return 0;
}

size_t skip_ascii(std::string_view text, size_t pos) {
  for (; pos + 8 <= text.size(); pos += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + pos, 8);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  return pos;
}

size_t find_invalid_utf8(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    if (static_cast<unsigned char>(text[pos]) < 0x80) {
      const size_t next = skip_ascii(text, pos);
      pos = next == pos ? pos + 1 : next;
      continue;
    }
    const size_t length = character_bytes(text.substr(pos));
    if (length == 0) return pos;
    pos += length;
  }
  return std::string_view::npos;
}

}  // namespace tessera
