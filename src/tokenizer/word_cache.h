#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace tessera::tokenizer {

// A fast hash of short texts; the same in every run.
inline uint64_t hash_bytes(std::string_view text) {
  constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
  uint64_t hash = text.size() * kMultiplier;
  const auto mix = [&hash](uint64_t word) {
    const auto product = static_cast<unsigned __int128>(hash ^ word) * kMultiplier;
    hash = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  };
  uint64_t word = 0;
  size_t pos = 0;
  for (; pos + 8 <= text.size(); pos += 8) {
    std::memcpy(&word, text.data() + pos, 8);
    mix(word);
  }
  word = 0;
  for (size_t i = 0; pos + i < text.size(); ++i) {
    word |= static_cast<uint64_t>(static_cast<unsigned char>(text[pos + i])) << (8 * i);
  }
  mix(word);
  mix(kMultiplier);
  return hash;
}

// The ids of short words seen before. Of fixed size: a word takes the place of another with the
// same slot, longer words and longer encodings are not kept. For one thread at a time.
class WordCache {
 public:
  // The ids, or an empty span when the word is not here. Valid until the next put().
  std::span<const int32_t> find(std::string_view word, uint64_t hash) const {
    if (entries_.empty()) return {};
    const Entry& entry = entries_[hash % kEntries];
    if (entry.word_bytes != word.size() || std::memcmp(entry.word, word.data(), word.size()) != 0) {
      return {};
    }
    return {entry.ids, entry.id_count};
  }

  void put(std::string_view word, uint64_t hash, std::span<const int32_t> ids) {
    if (word.empty() || word.size() > kWordBytes || ids.empty() || ids.size() > kIds) return;
    if (entries_.empty()) entries_.resize(kEntries);
    Entry& entry = entries_[hash % kEntries];
    entry.word_bytes = static_cast<uint8_t>(word.size());
    entry.id_count = static_cast<uint8_t>(ids.size());
    std::memcpy(entry.word, word.data(), word.size());
    std::copy(ids.begin(), ids.end(), entry.ids);
  }

  static constexpr size_t kWordBytes = 30;

 private:
  static constexpr size_t kEntries = 1 << 14;  // 1 MB: stays in the second-level cache
  static constexpr size_t kIds = 8;
  struct Entry {  // a cache line
    uint8_t word_bytes = 0;
    uint8_t id_count = 0;
    char word[kWordBytes] = {};
    int32_t ids[kIds] = {};
  };
  static_assert(sizeof(Entry) == 64);
  std::vector<Entry> entries_;
};

}  // namespace tessera::tokenizer
