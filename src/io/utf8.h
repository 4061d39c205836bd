#pragma once

#include <cstddef>
#include <string_view>

// Bytes that may be UTF-8.
namespace tessera {

// Length of the well-formed character that text, not empty, begins with (Unicode 15, table 3-7); 0
// where there is none, and then ill_formed, if given, holds the length of the ill-formed stretch
// (section 3.9).
size_t character_bytes(std::string_view text, size_t* ill_formed = nullptr);

// Skips ASCII from pos on, eight bytes a step; may stop up to seven bytes before the first other
// byte.
size_t skip_ascii(std::string_view text, size_t pos);

// Offset of the first byte that belongs to no well-formed character; npos when there is none.
size_t find_invalid_utf8(std::string_view text);

}  // namespace tessera
