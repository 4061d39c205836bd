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
        return vocabulary.append(static_cast<size_t>(id), token, tokens.where());
      }));
  vocabulary.index();
  return vocabulary;
}

Result<Vocabulary> Vocabulary::from_list(const std::vector<std::string_view>& tokens,
                                         const std::string& source) {
  if (tokens.size() > static_cast<size_t>(kMaxId) + 1) {
    return invalid_input(
        fmt::format("{}: expected at most {} tokens, found {}", source, kMaxId + 1, tokens.size()));
  }
  Vocabulary vocabulary;
  vocabulary.entries_.resize(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    TESSERA_RETURN_IF_ERROR(vocabulary.append(id, tokens[id], source));
  }
  vocabulary.index();
  return vocabulary;
}

Status Vocabulary::append(size_t id, std::string_view token, const std::string& source) {
  if (bytes_.size() + token.size() >= kAbsent) {
    return invalid_input(fmt::format("{}: expected less than 4 GiB of tokens", source));
  }
  entries_[id] = {static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(token.size())};
  bytes_ += token;
  longest_ = std::max(longest_, token.size());
  return {};
}

void Vocabulary::index() {
  slots_.assign(std::bit_ceil(2 * entries_.size() + 1), kNoToken);
  const size_t mask = slots_.size() - 1;
  for (int32_t id = 0; id < id_end(); ++id) {
    if (!has(id)) continue;
    size_t slot = hash_bytes(token(id)) & mask;
    while (slots_[slot] != kNoToken && token(slots_[slot]) != token(id)) slot = (slot + 1) & mask;
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
