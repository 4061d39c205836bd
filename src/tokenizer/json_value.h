#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace tessera::tokenizer {

// One value of a parsed JSON text, with typed access whose errors name place, expected and found:
//   "tokenizer.json: model.vocab: expected an object, found a string".
// Shares ownership of the parsed text; cheap to copy.
class JsonValue {
 public:
  // source is used in messages.
  static Result<JsonValue> parse(std::string_view json, std::string source);

  bool is_null() const;  // also an absent key
  bool is_string() const;
  bool is_array() const;
  bool is_object() const;
  size_t size() const;  // of an array or object, else 0

  // A null value when the key or index is absent or this is no object or array.
  JsonValue operator[](std::string_view key) const;
  JsonValue operator[](size_t index) const;

  Result<std::string_view> string() const;  // valid as long as any value of the text lives
  Result<double> number() const;            // finite
  Result<int64_t> integer(int64_t least, int64_t most) const;
  // Stop at the first error. The values are not null-checked.
  Status each_member(
      const std::function<Status(std::string_view key, const JsonValue&)>& visit) const;
  Status each_element(const std::function<Status(size_t index, const JsonValue&)>& visit) const;

  // Set the target from a member; require() makes an absent one an error, read() leaves the target.
  Status read(std::string_view key, bool& target) const;
  Status read(std::string_view key, std::string& target) const;
  Status require(std::string_view key, std::string& target) const;
  // The target keeps its value when absent; the value must lie in [0, most].
  Status read(std::string_view key, int64_t& target, int64_t most) const;

  std::string where() const;  // "tokenizer.json: model.vocab"
  Status wrong(std::string_view expected) const;
  Status refuse(std::string_view sentence) const;  // kInvalidInput "<where>: <sentence>"

 private:
  struct Path;
  JsonValue(const void* node, std::shared_ptr<const Path> parent, std::string_view key,
            size_t index)
      : node_(node), parent_(std::move(parent)), key_(key), index_(index) {}
  std::shared_ptr<const Path> path() const;

  const void* node_;
  std::shared_ptr<const Path> parent_;
  std::string_view key_;
  size_t index_;
};

}  // namespace tessera::tokenizer
