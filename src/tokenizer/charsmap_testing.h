#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::tokenizer {

inline std::string little_endian(uint32_t value) {
  std::string bytes;
  for (int shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>(value >> shift));
  return bytes;
}

// A character map on disk, for tests: each node takes the first 256 free units, so it is large.
inline std::string charsmap_bytes(const std::map<std::string, std::string>& rules) {
  std::vector<uint32_t> units(256);
  std::map<std::string, size_t> nodes = {{"", 0}};
  std::map<std::string, size_t> bases;
  std::string replacements;
  const auto base_of = [&](const std::string& key) {
    const auto [found, is_new] = bases.try_emplace(key, units.size());
    if (is_new) {
      units.resize(units.size() + 256);
      units[nodes[key]] |= static_cast<uint32_t>(nodes[key] ^ found->second) << 10;
    }
    return found->second;
  };
  for (const auto& [key, replacement] : rules) {
    for (size_t i = 0; i < key.size(); ++i) {
      const std::string whole = key.substr(0, i + 1);
      if (nodes.contains(whole)) continue;
      const auto label = static_cast<uint8_t>(key[i]);
      const size_t base = base_of(key.substr(0, i));
      nodes[whole] = base ^ label;
      units[base ^ label] = label;
    }
    const size_t base = base_of(key);
    units[nodes[key]] |= 1 << 8;
    units[base] = 0x80000000u | static_cast<uint32_t>(replacements.size());
    replacements += replacement + '\0';
  }
  std::string bytes = little_endian(static_cast<uint32_t>(4 * units.size()));
  for (const uint32_t unit : units) bytes += little_endian(unit);
  return bytes + replacements;
}

inline std::string to_base64(std::string_view bytes) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t j = 0; j < 3; ++j) {
      bits = bits << 8 | (i + j < bytes.size() ? static_cast<uint8_t>(bytes[i + j]) : 0u);
    }
    for (size_t j = 0; j < 4; ++j) {
      text += i + j > bytes.size() ? '=' : kDigits[bits >> (18 - 6 * j) & 63];
    }
  }
  return text;
}

}  // namespace tessera::tokenizer
