#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tessera::tokenizer {

// The "precompiled character map" of SentencePiece: rules that replace a few bytes by others. On
// disk: the size in bytes of a trie, the trie as a double array of 32-bit units (Aoe 1989, in the
// layout of darts-clone), and the replacements, each ended by a NUL; all little-endian.
class CharsMap {
 public:
  struct Rule {
    size_t length;                 // of the text that it replaces, in bytes
    std::string_view replacement;  // lives as long as the map
  };

  CharsMap() = default;
  // Fails without the place, for the caller to name. All units are checked, so that no text leads
  // outside the map.
  static Result<CharsMap> parse(std::string_view bytes);

  bool empty() const { return units_.empty(); }
  // The rules for the shortest and the longest beginning of the text that has one.
  std::optional<Rule> shortest(std::string_view text) const;
  std::optional<Rule> longest(std::string_view text) const;

 private:
  Status check() const;
  Status check_value(size_t node) const;
  size_t child(size_t node, uint8_t label) const;
  template <typename Visit>
  void for_each_prefix(std::string_view text, const Visit& visit) const;
  std::string_view replacement(size_t node) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

// Standard base64 (RFC 4648, section 4), with or without its padding; empty when it is not that.
std::optional<std::string> decode_base64(std::string_view text);

}  // namespace tessera::tokenizer
