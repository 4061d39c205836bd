#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/json.h"
#include "tessera/names.h"

namespace tessera {

enum class Truth { kNo, kYes };

// A JSON value and where it stands, for files that people write: what is wrong is said with the
// path of the key, as "recipe.json: variants[1].threads: expected an integer from 1 to 4096, found
// "two"". Refers to the value, which must live as long.
class JsonAt {
 public:
  JsonAt(const Json& value, std::string source) : value_(&value), source_(std::move(source)) {}

  const Json& value() const { return *value_; }
  const std::string& path() const { return path_; }  // "variants[1].threads"; empty at the root

  Status wrong(const std::string& expected) const;  // kInvalidInput: expected ..., found the value
  Status failure(StatusCode code, const std::string& message) const;

  bool is_list() const { return value_->as<Json::Array>() != nullptr; }
  // Refuses values that are no object, and keys that are not among these.
  Status known(std::initializer_list<const char*> keys) const { return known(std::vector(keys)); }
  Status known(const std::vector<const char*>& keys) const;
  std::optional<JsonAt> find(const char* key) const;  // nothing: absent
  Result<JsonAt> need(const char* key) const;

  Result<std::string> text() const;
  Result<int64_t> integer(int64_t least, int64_t most) const;
  Result<double> number(double least, double most) const;
  Result<Truth> truth() const;
  Result<size_t> one_of(const std::vector<const char*>& names) const;  // the index
  // The value of that name (tessera/names.h).
  template <Named Enum>
  Result<Enum> one_of() const {
    const std::string* text = value_->as<std::string>();
    const std::optional<Enum> value = text == nullptr ? std::nullopt : parse<Enum>(*text);
    if (!value) return wrong(names<Enum>());
    return *value;
  }
  Result<std::vector<JsonAt>> list(size_t least, size_t most) const;

  // The value of a member that may be absent.
  Result<std::string> text_or(const char* key, std::string fallback) const;
  Result<int64_t> integer_or(const char* key, int64_t fallback, int64_t least, int64_t most) const;
  Result<double> number_or(const char* key, double fallback, double least, double most) const;

 private:
  JsonAt(const Json& value, std::string source, std::string path)
      : value_(&value), source_(std::move(source)), path_(std::move(path)) {}

  const Json* value_;
  std::string source_, path_;
};

}  // namespace tessera
