#include "tokenizer/vocabulary.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "tokenizer/word_cache.h"

namespace tessera::tokenizer {

int64_t Vocabulary::largest_plausible_id(size_t tokens) {
  return std::min<int64_t>(kMaxId, 65536 + 64 * static_cast<int64_t>(tokens));
}

Result<Vocabulary> Vocabulary::from_json(const JsonValue& tokens) {
  Vocabulary vocabulary;
  const int64_t most = largest_plausible_id(tokens.size());
  TESSERA_RETURN_IF_ERROR(
      tokens.each_member([&](std::string_view token, const JsonValue& value) -> Status {
        TESSERA_ASSIGN_OR_RETURN(const int64_t id, value.integer(0, most));
        auto& entries = vocabulary.entries_;
        if (static_cast<size_t>(id) >= entries.size()) entries.resize(static_cast<size_t>(id) + 1);
        if (vocabulary.has(static_cast<int32_t>(id))) {
          return value.refuse(fmt::format("expected an id of its own, found {}, which \"{}\" has",
                                          id, vocabulary.token(static_cast<int32_t>(id))));
        }
        if (vocabulary.bytes_.size() + token.size() >= kAbsent) {
          return tokens.refuse("expected less than 4 GiB of tokens");
        }
        entries[id] = {static_cast<uint32_t>(vocabulary.bytes_.size()),
                       static_cast<uint32_t>(token.size())};
        vocabulary.bytes_ += token;
        vocabulary.longest_ = std::max(vocabulary.longest_, token.size());
        return {};
      }));
  vocabulary.index();
  return vocabulary;
}

void Vocabulary::index() {
  slots_.assign(std::bit_ceil(2 * entries_.size() + 1), kNoToken);
  const size_t mask = slots_.size() - 1;
  for (int32_t id = 0; id < id_end(); ++id) {
    if (!has(id)) continue;
    size_t slot = hash_bytes(token(id)) & mask;
    while (slots_[slot] != kNoToken) slot = (slot + 1) & mask;
    slots_[slot] = id;
  }
}

int32_t Vocabulary::find(std::string_view text) const {
  if (slots_.empty()) return kNoToken;
  const size_t mask = slots_.size() - 1;
  size_t slot = hash_bytes(text) & mask;
  while (slots_[slot] != kNoToken && token(slots_[slot]) != text) slot = (slot + 1) & mask;
  return slots_[slot];
}

std::string_view Vocabulary::token(int32_t id) const {
  if (!has(id)) return {};
  return std::string_view(bytes_).substr(entries_[id].offset, entries_[id].length);
}

}  // namespace tessera::tokenizer
