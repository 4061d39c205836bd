#include "tokenizer/trie.h"

#include <algorithm>

namespace tessera::tokenizer {

Trie::Trie(std::vector<Entry> entries) {
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.first < b.first; });
  // The sorted entries that begin with the bytes of a node.
  struct Range {
    uint32_t begin;
    uint32_t end;
    uint32_t depth;
  };
  std::vector<Range> ranges = {{0, static_cast<uint32_t>(entries.size()), 0}};
  first_child_.clear();
  for (size_t node = 0; node < ranges.size(); ++node) {
    first_child_.push_back(static_cast<uint32_t>(ranges.size()));
    auto [begin, end, depth] = ranges[node];
    for (; begin < end && entries[begin].first.size() == depth; ++begin) {
      if (depth > 0) ids_[node] = entries[begin].second;
    }
    while (begin < end) {
      const char label = entries[begin].first[depth];
      uint32_t next = begin;
      while (next < end && entries[next].first[depth] == label) ++next;
      ranges.push_back({begin, next, depth + 1});
      ids_.push_back(kNone);
      labels_ += label;
      begin = next;
    }
  }
  first_child_.push_back(static_cast<uint32_t>(ranges.size()));
}

}  // namespace tessera::tokenizer
