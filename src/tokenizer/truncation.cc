#include "tokenizer/truncation.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace tessera::tokenizer {
namespace {

template <typename T>
void shorten(TruncationSide side, size_t size, std::vector<T>& items) {
  if (items.size() <= size) return;
  if (side == TruncationSide::kLeft) {
    items.erase(items.begin(), items.end() - static_cast<std::ptrdiff_t>(size));
  } else {
    items.resize(size);
  }
}

void shorten(TruncationSide side, size_t size, Tokens& tokens) {
  shorten(side, size, tokens.ids);
  if (tokens.has_spans) shorten(side, size, tokens.spans);
}

// The sizes that leave the shorter one whole where that is possible, else halves of the room, the
// odd token for the longer one.
std::pair<size_t, size_t> longest_first(size_t first, size_t second, size_t room) {
  const bool swapped = first > second;
  if (swapped) std::swap(first, second);
  second = first > room ? first : std::max(first, room - first);
  if (first + second > room) {
    first = room / 2;
    second = room - first;
  }
  return swapped ? std::pair(second, first) : std::pair(first, second);
}

}  // namespace

Status truncate(const Truncation& truncation, size_t special_tokens, Tokens& first,
                Tokens* second) {
  const size_t size = first.ids.size() + (second == nullptr ? 0 : second->ids.size());
  if (size + special_tokens <= truncation.max_tokens) return {};
  if (special_tokens > truncation.max_tokens) {
    return invalid_input(
        fmt::format("expected room for {} special tokens, found a limit of {} tokens",
                    special_tokens, truncation.max_tokens));
  }
  const size_t room = truncation.max_tokens - special_tokens;
  if (truncation.strategy == TruncationStrategy::kLongestFirst) {
    if (second == nullptr) {
      shorten(truncation.side, room, first);
    } else {
      const auto sizes = longest_first(first.ids.size(), second->ids.size(), room);
      shorten(truncation.side, sizes.first, first);
      shorten(truncation.side, sizes.second, *second);
    }
    return {};
  }
  const bool only_first = truncation.strategy == TruncationStrategy::kOnlyFirst;
  Tokens* target = only_first ? &first : second;
  if (target == nullptr) {
    return invalid_input("expected a second text to truncate, found one text");
  }
  const size_t others = size - target->ids.size();
  if (second != nullptr && others >= room) {
    return invalid_input(
        fmt::format("expected room for the {} text beside the {} tokens of the other one, found {}",
                    only_first ? "first" : "second", others, room));
  }
  shorten(truncation.side, room - others, *target);
  return {};
}

Result<std::vector<Span>> windows_over(size_t tokens, size_t room, size_t overlap) {
  std::vector<Span> windows;
  if (tokens > room && overlap >= room) {
    return invalid_input(fmt::format(
        "expected room for more tokens of the second text than the overlap of {}, found {}",
        overlap, room));
  }
  for (size_t begin = 0;; begin += room - overlap) {
    const size_t end = std::min(begin + room, tokens);
    windows.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end)});
    if (end == tokens) return windows;
  }
}

}  // namespace tessera::tokenizer
