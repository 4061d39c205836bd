#include "tokenizer/charsmap.h"

#include <fmt/format.h>

#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

constexpr size_t kNoNode = static_cast<size_t>(-1);
// Far beyond the rules that exist (33 bytes); bounds the walk through a trie with a cycle.
constexpr size_t kLongestRule = 256;

uint32_t read_little_endian(std::string_view bytes, size_t pos) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) {
    value |= static_cast<uint32_t>(static_cast<uint8_t>(bytes[pos + i])) << (8 * i);
  }
  return value;
}

// The fields of a unit. A node that ends a rule has a child without a label, which is its value.
bool ends_rule(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t label(uint32_t unit) { return unit & 0x800000FFu; }
size_t offset(uint32_t unit) { return static_cast<size_t>(unit >> 10) << (unit >> 6 & 8); }
size_t value(uint32_t unit) { return unit & 0x7FFFFFFFu; }

}  // namespace

Result<CharsMap> CharsMap::parse(std::string_view bytes) {
  if (bytes.size() < 4) {
    return invalid_input(
        fmt::format("expected a character map of at least 4 bytes, found {}", bytes.size()));
  }
  const size_t trie_bytes = read_little_endian(bytes, 0);
  if (trie_bytes == 0 || trie_bytes % 4 != 0 || trie_bytes > bytes.size() - 4) {
    return invalid_input(fmt::format(
        "expected a character map whose trie has whole units in the {} bytes after its size, found "
        "{} bytes of them",
        bytes.size() - 4, trie_bytes));
  }
  CharsMap map;
  map.replacements_ = bytes.substr(4 + trie_bytes);
  if (const size_t bad = find_invalid_utf8(map.replacements_); bad != std::string_view::npos) {
    return invalid_input(fmt::format(
        "expected replacements in UTF-8 in the character map, found byte 0x{:02X} at {}",
        static_cast<uint8_t>(map.replacements_[bad]), bad));
  }
  map.units_.resize(trie_bytes / 4);
  for (size_t i = 0; i < map.units_.size(); ++i) {
    map.units_[i] = read_little_endian(bytes, 4 + 4 * i);
  }
  TESSERA_RETURN_IF_ERROR(map.check());
  return map;
}

// Values have the highest bit, which no label has, so they are never nodes; but for the root.
Status CharsMap::check() const {
  for (size_t node = 0; node < units_.size(); ++node) {
    const bool is_node = node == 0 || (units_[node] & 0x80000000u) == 0;
    if (is_node && ends_rule(units_[node])) TESSERA_RETURN_IF_ERROR(check_value(node));
  }
  return {};
}

Status CharsMap::check_value(size_t node) const {
  const size_t leaf = node ^ offset(units_[node]);
  if (leaf >= units_.size()) {
    return invalid_input(fmt::format(
        "expected a character map that stays in its {} units, found {}", units_.size(), leaf));
  }
  const size_t begin = value(units_[leaf]);
  if (begin >= replacements_.size() || is_continuation(replacements_[begin])) {
    return invalid_input(fmt::format(
        "expected a character map whose rules point at characters of its {} bytes of replacements, "
        "found {}",
        replacements_.size(), begin));
  }
  return {};
}

size_t CharsMap::child(size_t node, uint8_t byte) const {
  const size_t next = node ^ offset(units_[node]) ^ byte;
  return next < units_.size() && label(units_[next]) == byte ? next : kNoNode;
}

std::string_view CharsMap::replacement(size_t node) const {
  const size_t begin = value(units_[node ^ offset(units_[node])]);
  const std::string_view rest = std::string_view(replacements_).substr(begin);
  return rest.substr(0, rest.find('\0'));
}

// Calls visit(length, node) for every beginning of the text that has a rule; false ends it.
template <typename Visit>
void CharsMap::for_each_prefix(std::string_view text, const Visit& visit) const {
  if (units_.empty()) return;
  size_t node = 0;
  for (size_t i = 0; i < text.size() && i < kLongestRule; ++i) {
    if (text[i] == '\0') return;
    node = child(node, static_cast<uint8_t>(text[i]));
    if (node == kNoNode) return;
    if (ends_rule(units_[node]) && !visit(i + 1, node)) return;
  }
}

std::optional<CharsMap::Rule> CharsMap::shortest(std::string_view text) const {
  std::optional<Rule> rule;
  for_each_prefix(text, [&](size_t length, size_t node) {
    rule = {length, replacement(node)};
    return false;
  });
  return rule;
}

std::optional<CharsMap::Rule> CharsMap::longest(std::string_view text) const {
  size_t longest = 0;
  size_t last = 0;
  for_each_prefix(text, [&](size_t length, size_t node) {
    longest = length;
    last = node;
    return true;
  });
  // A rule that ends inside a character would leave no character behind.
  if (longest == 0 || (longest < text.size() && is_continuation(text[longest]))) return {};
  return Rule{longest, replacement(last)};
}

std::optional<std::string> decode_base64(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
  };
  for (int i = 0; i < 2 && text.ends_with('='); ++i) text.remove_suffix(1);
  std::string bytes;
  bytes.reserve(text.size() / 4 * 3 + 2);
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const int value = digit(c);
    if (value < 0) return std::nullopt;
    bits = (bits << 6 | static_cast<uint32_t>(value)) & 0xFFFFFF;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push_back(static_cast<char>(bits >> count));
  }
  if (count == 6) return std::nullopt;  // a single digit at the end
  return bytes;
}

}  // namespace tessera::tokenizer
