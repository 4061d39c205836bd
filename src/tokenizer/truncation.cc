#include "tokenizer/truncation.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace tessera::tokenizer {
namespace {

void shorten(TruncationSide side, size_t size, std::vector<int32_t>& ids) {
  if (ids.size() <= size) return;
  if (side == TruncationSide::kLeft) {
    ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(size));
  } else {
    ids.resize(size);
  }
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

Status truncate(const Truncation& truncation, size_t special_tokens, std::vector<int32_t>& first,
                std::vector<int32_t>* second) {
  const size_t size = first.size() + (second == nullptr ? 0 : second->size());
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
      const auto sizes = longest_first(first.size(), second->size(), room);
      shorten(truncation.side, sizes.first, first);
      shorten(truncation.side, sizes.second, *second);
    }
    return {};
  }
  const bool only_first = truncation.strategy == TruncationStrategy::kOnlyFirst;
  std::vector<int32_t>* target = only_first ? &first : second;
  if (target == nullptr) {
    return invalid_input("expected a second text to truncate, found one text");
  }
  const size_t others = size - target->size();
  if (second != nullptr && others >= room) {
    return invalid_input(
        fmt::format("expected room for the {} text beside the {} tokens of the other one, found {}",
                    only_first ? "first" : "second", others, room));
  }
  shorten(truncation.side, room - others, *target);
  return {};
}

}  // namespace tessera::tokenizer
