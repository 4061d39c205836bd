#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "base/status.h"

namespace tessera::tokenizer {

// A stretch of bytes [begin, end).
struct Span {
  uint32_t begin = 0;
  uint32_t end = 0;
};

// What one thread needs to match, whatever the pattern.
class MatchState {
 public:
  MatchState();
  ~MatchState();
  MatchState(MatchState&&) noexcept;
  MatchState& operator=(MatchState&&) noexcept;

 private:
  friend class Regex;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A pattern in the dialect of Oniguruma, as tokenizer.json has them, run by PCRE2. Immutable and
// shared by threads.
class Regex {
 public:
  // kInvalidInput or kUnsupported, without the place, for the caller to name.
  static Result<Regex> compile(std::string_view pattern);
  // A pattern that matches exactly this text.
  static Result<Regex> literal(std::string_view text);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // The first match that begins at or after from. Text is well-formed UTF-8. A pattern that needs
  // more than kMatchLimit steps is an error.
  static constexpr uint32_t kMatchLimit = 10'000'000;
  Result<std::optional<Span>> find(std::string_view text, size_t from, MatchState& state) const;

  // Calls visit(span) for every match from left to right. An empty match that touches the end of
  // the one before is passed over.
  template <typename Visit>
  Status for_each_match(std::string_view text, MatchState& state, const Visit& visit) const;

 private:
  struct Impl;
  explicit Regex(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Length of the character that starts at pos; 1 at the end.
size_t character_length(std::string_view text, size_t pos);

template <typename Visit>
Status Regex::for_each_match(std::string_view text, MatchState& state, const Visit& visit) const {
  std::optional<uint32_t> last_end;
  for (size_t from = 0; from <= text.size();) {
    TESSERA_ASSIGN_OR_RETURN(const std::optional<Span> match, find(text, from, state));
    if (!match) break;
    if (match->begin == match->end && last_end == match->end) {
      from += character_length(text, from);
      continue;
    }
    visit(*match);
    from = match->end;
    last_end = match->end;
  }
  return {};
}

}  // namespace tessera::tokenizer
