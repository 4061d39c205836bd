#include "runtime/stop_strings.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "io/json.h"

namespace tessera {

Status check_stop_strings(const std::vector<std::string>& strings) {
  for (const std::string& string : strings) {
    if (string.empty()) return invalid_input("stop: expected strings of text, found an empty one");
    if (!is_utf8(string)) {
      return invalid_input(fmt::format("stop: expected text in UTF-8, found {}", quote(string)));
    }
  }
  return {};
}

std::string StopStrings::next(std::string_view piece) {
  if (found_) return "";
  held_ += piece;
  size_t first = std::string::npos, end = std::string::npos;
  for (const std::string& string : strings_) {
    const size_t at = held_.find(string);
    if (at == std::string::npos) continue;
    const size_t behind = at + string.size();
    if (behind < end || (behind == end && at < first)) {
      first = at;
      end = behind;
    }
  }
  found_ = first != std::string::npos;
  const size_t certain = found_ ? first : held_.size() - held_bytes();
  std::string text = held_.substr(0, certain);
  if (found_) {
    held_.clear();
  } else {
    held_.erase(0, certain);
  }
  return text;
}

std::string StopStrings::finish() { return std::exchange(held_, {}); }

// The longest end of held_ that a string begins with.
size_t StopStrings::held_bytes() const {
  const std::string_view held = held_;
  size_t longest = 0;
  for (const std::string& string : strings_) {
    for (size_t size = std::min(string.size() - 1, held.size()); size > longest; --size) {
      if (string.starts_with(held.substr(held.size() - size))) longest = size;
    }
  }
  return longest;
}

}  // namespace tessera
