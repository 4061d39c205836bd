#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tessera {

// A JSON object with typed access whose errors name file, key, expected and found:
//   "config.json: hidden_size: expected an integer from 1 to 2147483647, found \"abc\"".
// A key that is absent or null gives the fallback, or an error where there is none; contains()
// tells the two apart. Cheap to copy.
class Config {
 public:
  // source is used in messages. Depth and size are limited; duplicate keys, trailing text and NaN
  // are errors.
  static Result<Config> parse(std::string_view json, std::string source);
  static Result<Config> read(const std::string& path);
  Config();  // an empty object

  const std::string& source()
      const;  // "DIR/config.json", or "DIR/config.json: rope_parameters" for a child
  bool contains(std::string_view key) const;  // present, perhaps null
  bool has(std::string_view key) const;       // present and not null
  std::vector<std::string> keys() const;

  Result<int64_t> integer(std::string_view key, int64_t least, int64_t most) const;
  Result<int64_t> integer_or(std::string_view key, int64_t fallback, int64_t least,
                             int64_t most) const;
  Result<double> number(std::string_view key) const;  // finite
  Result<double> number_or(std::string_view key, double fallback) const;
  Result<std::vector<double>> numbers(std::string_view key) const;  // empty when absent
  Result<std::string> string(std::string_view key) const;
  Result<std::string> string_or(std::string_view key, std::string_view fallback) const;
  enum class Truth { kNo, kYes };
  Result<Truth> truth_or(std::string_view key, Truth fallback) const;
  Result<Config> child(std::string_view key) const;  // an empty object when absent
  Result<std::vector<std::string>> strings(std::string_view key) const;  // empty when absent
  // A single integer or a list of them (eos_token_id); empty when absent.
  Result<std::vector<int64_t>> integers(std::string_view key) const;
  // Lists of integers (bad_words_ids); empty when absent.
  Result<std::vector<std::vector<int64_t>>> integer_lists(std::string_view key) const;
  // {"0": "NEGATIVE", "1": ...} as a list by index; empty when absent; holes are errors.
  Result<std::vector<std::string>> strings_by_index(std::string_view key) const;
  std::string dump() const;

 private:
  struct Node;
  std::shared_ptr<const Node> node_;
};

}  // namespace tessera
