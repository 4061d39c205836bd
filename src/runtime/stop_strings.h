#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tessera {

// Each must be well-formed UTF-8 and not empty.
Status check_stop_strings(const std::vector<std::string>& strings);

// Looks for strings in a text that comes in pieces. The one that is complete first ends the text,
// of several that are complete at once the longest, wherever the pieces were cut.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {}

  // Takes the next piece; gives what is certain to stand before any of the strings. What may be the
  // beginning of one is held back. After found() nothing more is given.
  std::string next(std::string_view piece);
  // The text has ended: gives what was held back.
  std::string finish();
  bool found() const { return found_; }

 private:
  size_t held_bytes() const;

  std::vector<std::string> strings_;
  std::string held_;
  bool found_ = false;
};

}  // namespace tessera
