#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tokenizer/json_value.h"

namespace tessera::tokenizer {

inline constexpr int32_t kNoToken = -1;

// Tokens and their ids, both ways.
class Vocabulary {
 public:
  // Ids above this, or far above the number of tokens, are taken for damage: tables are as long as
  // the largest id.
  static constexpr int64_t kMaxId = (1 << 24) - 1;
  static int64_t largest_plausible_id(size_t tokens);

  // Reads {"token": id, ...}.
  static Result<Vocabulary> from_json(const JsonValue& tokens);

  // The ids are the places in the list; of equal tokens the last one is found. source is used in
  // messages.
  static Result<Vocabulary> from_list(const std::vector<std::string_view>& tokens,
                                      const std::string& source);

  int32_t find(std::string_view token) const;  // kNoToken when it is not here
  std::string_view token(int32_t id) const;    // empty when the id has none
  int32_t id_end() const { return static_cast<int32_t>(entries_.size()); }  // the largest id + 1
  bool has(int32_t id) const { return id >= 0 && id < id_end() && entries_[id].offset != kAbsent; }
  size_t longest_token_bytes() const { return longest_; }

 private:
  static constexpr uint32_t kAbsent = 0xFFFFFFFF;
  struct Entry {
    uint32_t offset = kAbsent;
    uint32_t length = 0;
  };
  Status append(size_t id, std::string_view token, const std::string& source);
  void index();

  std::string bytes_;
  std::vector<Entry> entries_;  // by id
  std::vector<int32_t> slots_;  // open addressing, a power of two
  size_t longest_ = 0;
};

}  // namespace tessera::tokenizer
