#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tessera::tokenizer {

// Finds the tokens that a text begins with. The nodes are numbered breadth first, so the children
// of a node lie side by side and their labels are one short string to search.
class Trie {
 public:
  using Entry = std::pair<std::string_view, int32_t>;  // a token and its id

  Trie() = default;
  // Empty tokens are left out; of equal ones the last counts.
  explicit Trie(std::vector<Entry> entries);

  bool empty() const { return ids_.size() <= 1; }

  // Calls visit(length, id) for every token that text begins with, the shortest first.
  template <typename Visit>
  void for_each_prefix(std::string_view text, const Visit& visit) const {
    size_t node = 0;
    for (size_t length = 0; length < text.size();) {
      const size_t begin = first_child_[node];
      const size_t count = first_child_[node + 1] - begin;
      const void* found =
          count == 0 ? nullptr : std::memchr(labels_.data() + begin, text[length], count);
      if (found == nullptr) return;
      node = static_cast<size_t>(static_cast<const char*>(found) - labels_.data());
      ++length;
      if (ids_[node] != kNone) visit(length, ids_[node]);
    }
  }

  // Length of the longest token that text begins with, 0 without any.
  size_t longest_prefix(std::string_view text) const {
    size_t longest = 0;
    for_each_prefix(text, [&](size_t length, int32_t) { longest = length; });
    return longest;
  }

 private:
  static constexpr int32_t kNone = -1;
  std::vector<uint32_t> first_child_ = {
      1, 1};  // of each node; its children end where the next's begin
  std::vector<int32_t> ids_ = {kNone};
  std::string labels_ =
      std::string(1, '\0');  // the byte that leads to each node; the root has none
};

}  // namespace tessera::tokenizer
