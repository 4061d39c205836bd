#include "io/config.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <optional>
#include <utility>

#include "io/json.h"
#include "io/mapped_file.h"

namespace tessera {
namespace {

constexpr size_t kFileLimitBytes = size_t{64} << 20;

Status unexpected(const std::string& source, std::string_view key, const std::string& expected,
                  const Json* found) {
  return invalid_input(fmt::format("{}: {}: expected {}, found {}", source, key, expected,
                                   found == nullptr ? "nothing" : shortened(*found)));
}

std::optional<double> finite_number(const Json& value) {
  if (const auto* integer = value.as<int64_t>()) return static_cast<double>(*integer);
  if (const auto* large = value.as<uint64_t>()) return static_cast<double>(*large);
  const auto* number = value.as<double>();
  return number != nullptr && std::isfinite(*number) ? std::optional(*number) : std::nullopt;
}

}  // namespace

struct Config::Node {
  std::string source;
  std::shared_ptr<const Json> object;  // a child's is a part of its parent's, which it keeps alive

  const Json* find(std::string_view key) const {
    const Json* value = object->find(key);
    return value != nullptr && !value->is_null() ? value : nullptr;
  }
  // What a value that must be there is not; a null is named as such.
  Status lacks(std::string_view key, const std::string& expected) const {
    return unexpected(source, key, expected, object->find(key));
  }
};

Config::Config() {
  static const auto empty =
      std::make_shared<const Node>(Node{"", std::make_shared<const Json>(Json{Json::Object{}})});
  node_ = empty;
}

Result<Config> Config::parse(std::string_view json, std::string source) {
  TESSERA_ASSIGN_OR_RETURN(Json root, parse_json(json, source));
  if (root.as<Json::Object>() == nullptr) {
    return invalid_input(
        fmt::format("{}: expected a JSON object, found {}", source, shortened(root)));
  }
  Config config;
  config.node_ = std::make_shared<const Node>(
      Node{std::move(source), std::make_shared<const Json>(std::move(root))});
  return config;
}

Result<Config> Config::read(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kFileLimitBytes));
  return parse(text, path);
}

const std::string& Config::source() const { return node_->source; }

bool Config::contains(std::string_view key) const { return node_->object->find(key) != nullptr; }

bool Config::has(std::string_view key) const { return node_->find(key) != nullptr; }

std::vector<std::string> Config::keys() const {
  std::vector<std::string> keys;
  for (const Json::Member& member : *node_->object->as<Json::Object>()) keys.push_back(member.key);
  return keys;
}

Result<int64_t> Config::integer(std::string_view key, int64_t least, int64_t most) const {
  const Json* value = node_->find(key);
  const int64_t* integer = value == nullptr ? nullptr : value->as<int64_t>();
  if (integer != nullptr && *integer >= least && *integer <= most) return *integer;
  return node_->lacks(key, fmt::format("an integer from {} to {}", least, most));
}

Result<int64_t> Config::integer_or(std::string_view key, int64_t fallback, int64_t least,
                                   int64_t most) const {
  if (!has(key)) return fallback;
  return integer(key, least, most);
}

Result<double> Config::number(std::string_view key) const {
  const Json* value = node_->find(key);
  const std::optional<double> number = value == nullptr ? std::nullopt : finite_number(*value);
  if (number) return *number;
  return node_->lacks(key, "a finite number");
}

Result<double> Config::number_or(std::string_view key, double fallback) const {
  if (!has(key)) return fallback;
  return number(key);
}

Result<std::vector<double>> Config::numbers(std::string_view key) const {
  const Json* value = node_->find(key);
  std::vector<double> numbers;
  if (value == nullptr) return numbers;
  constexpr const char* kExpected = "a list of finite numbers";
  const auto* items = value->as<Json::Array>();
  if (items == nullptr) return unexpected(source(), key, kExpected, value);
  for (const Json& item : *items) {
    const std::optional<double> number = finite_number(item);
    if (!number) return unexpected(source(), key, kExpected, &item);
    numbers.push_back(*number);
  }
  return numbers;
}

Result<std::string> Config::string(std::string_view key) const {
  const Json* value = node_->find(key);
  if (value != nullptr) {
    if (const auto* text = value->as<std::string>()) return *text;
  }
  return node_->lacks(key, "a string");
}

Result<std::string> Config::string_or(std::string_view key, std::string_view fallback) const {
  if (!has(key)) return std::string(fallback);
  return string(key);
}

Result<Config::Truth> Config::truth_or(std::string_view key, Truth fallback) const {
  const Json* value = node_->find(key);
  if (value == nullptr) return fallback;
  if (const auto* truth = value->as<bool>()) return *truth ? Truth::kYes : Truth::kNo;
  return unexpected(source(), key, "true or false", value);
}

Result<Config> Config::child(std::string_view key) const {
  std::string child_source = fmt::format("{}: {}", source(), key);
  Config child;
  const Json* value = node_->find(key);
  if (value != nullptr && value->as<Json::Object>() == nullptr) {
    return unexpected(source(), key, "an object", value);
  }
  std::shared_ptr<const Json> object = child.node_->object;
  if (value != nullptr) object = std::shared_ptr<const Json>(node_->object, value);
  child.node_ = std::make_shared<const Node>(Node{std::move(child_source), std::move(object)});
  return child;
}

Result<std::vector<std::string>> Config::strings(std::string_view key) const {
  const Json* value = node_->find(key);
  if (value == nullptr) return std::vector<std::string>();
  const auto* items = value->as<Json::Array>();
  if (items == nullptr) return unexpected(source(), key, "a list of strings", value);
  std::vector<std::string> strings;
  for (const Json& item : *items) {
    const auto* text = item.as<std::string>();
    if (text == nullptr) return unexpected(source(), key, "a list of strings", &item);
    strings.push_back(*text);
  }
  return strings;
}

Result<std::vector<int64_t>> Config::integers(std::string_view key) const {
  const Json* value = node_->find(key);
  if (value == nullptr) return std::vector<int64_t>();
  if (const auto* integer = value->as<int64_t>()) return std::vector<int64_t>{*integer};
  const auto* items = value->as<Json::Array>();
  if (items == nullptr) return unexpected(source(), key, "an integer or a list of integers", value);
  std::vector<int64_t> integers;
  for (const Json& item : *items) {
    const auto* integer = item.as<int64_t>();
    if (integer == nullptr)
      return unexpected(source(), key, "an integer or a list of integers", &item);
    integers.push_back(*integer);
  }
  return integers;
}

Result<std::vector<std::vector<int64_t>>> Config::integer_lists(std::string_view key) const {
  std::vector<std::vector<int64_t>> lists;
  const Json* value = node_->find(key);
  if (value == nullptr) return lists;
  constexpr const char* kExpected = "a list of lists of integers";
  const auto* items = value->as<Json::Array>();
  if (items == nullptr) return unexpected(source(), key, kExpected, value);
  for (const Json& item : *items) {
    const auto* row = item.as<Json::Array>();
    if (row == nullptr) return unexpected(source(), key, kExpected, &item);
    std::vector<int64_t>& list = lists.emplace_back();
    for (const Json& cell : *row) {
      const auto* integer = cell.as<int64_t>();
      if (integer == nullptr) return unexpected(source(), key, kExpected, &cell);
      list.push_back(*integer);
    }
  }
  return lists;
}

Result<std::vector<std::string>> Config::strings_by_index(std::string_view key) const {
  const Json* value = node_->find(key);
  if (value == nullptr) return std::vector<std::string>();
  const auto* members = value->as<Json::Object>();
  if (members == nullptr) return unexpected(source(), key, "an object of strings by index", value);
  // Keys occur once, so n canonical numbers below n leave no hole.
  std::vector<std::string> strings(members->size());
  for (const Json::Member& member : *members) {
    size_t index = 0;
    const char* end = member.key.data() + member.key.size();
    const auto [stop, error] = std::from_chars(member.key.data(), end, index);
    const bool canonical =
        error == std::errc() && stop == end && (member.key[0] != '0' || member.key.size() == 1);
    if (!canonical || index >= strings.size()) {
      return invalid_input(fmt::format("{}: {}: expected the keys \"0\" to \"{}\", found {}",
                                       source(), key, strings.size() - 1, quote(member.key)));
    }
    const auto* text = member.value.as<std::string>();
    if (text == nullptr) {
      return unexpected(source(), fmt::format("{}: {}", key, member.key), "a string",
                        &member.value);
    }
    strings[index] = *text;
  }
  return strings;
}

std::string Config::dump() const { return to_text(*node_->object); }

}  // namespace tessera
