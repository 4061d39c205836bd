#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"

namespace tessera {

// A JSON value as plain data. The members of an object are sorted by key, each key once.
struct Json {
  struct Member;
  using Array = std::vector<Json>;
  using Object = std::vector<Member>;

  // An integer is int64_t where it fits, uint64_t up to 2^64 - 1; every other number is a double.
  std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, Array, Object> value;

  template <typename T>
  const T* as() const {
    return std::get_if<T>(&value);
  }
  bool is_null() const { return value.index() == 0; }
  // Null where this is no object or has no such member.
  const Json* find(std::string_view key) const;
};

struct Json::Member {
  std::string key;
  Json value;
};

// Bounds on what a hostile text can cost; 2^22 values take about 300 MB.
struct JsonLimits {
  size_t depth = 64;
  size_t values = size_t{1} << 22;
};

// Strict JSON in UTF-8: NaN, comments, trailing text and a key that occurs twice are errors. source
// opens the message.
Result<Json> parse_json(std::string_view text, const std::string& source,
                        const JsonLimits& limits = {});

std::string to_text(const Json& value);
// With quotation marks and escapes; text must be UTF-8.
std::string to_json_string(std::string_view text);

// For messages: at most about 40 bytes of a value, or of a text of any bytes in quotation marks.
std::string shortened(const Json& value);
std::string quote(std::string_view text);

bool is_utf8(std::string_view text);

}  // namespace tessera
