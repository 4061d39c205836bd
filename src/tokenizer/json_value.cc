#include "tokenizer/json_value.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

namespace tessera::tokenizer {
namespace {

using Json = nlohmann::json;

constexpr size_t kNoIndex = static_cast<size_t>(-1);

const Json* as_json(const void* node) { return static_cast<const Json*>(node); }

std::string describe(const Json* json) {
  if (json == nullptr || json->is_null()) return "nothing";
  switch (json->type()) {
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string: {
      const auto& text = json->get_ref<const std::string&>();
      return text.size() <= 40 ? fmt::format("\"{}\"", text) : "a string";
    }
    default:
      return json->dump();
  }
}

}  // namespace

// The way from the root to a value that has children; the root holds the text.
struct JsonValue::Path {
  std::shared_ptr<const Path> parent;
  std::string key;
  size_t index = kNoIndex;
  std::string source;
  Json document;
};

Result<JsonValue> JsonValue::parse(std::string_view json, std::string source) {
  auto root = std::make_shared<Path>();
  root->source = std::move(source);
  try {
    root->document = Json::parse(json.begin(), json.end());
  } catch (const Json::exception& error) {
    std::string reason = error.what();
    if (const size_t end = reason.find("] "); end != std::string::npos) reason.erase(0, end + 2);
    return invalid_input(fmt::format("{}: expected JSON: {}", root->source, reason));
  }
  const void* node = &root->document;
  return JsonValue(node, std::move(root), {}, kNoIndex);
}

bool JsonValue::is_null() const { return node_ == nullptr || as_json(node_)->is_null(); }
bool JsonValue::is_string() const { return node_ != nullptr && as_json(node_)->is_string(); }
bool JsonValue::is_array() const { return node_ != nullptr && as_json(node_)->is_array(); }
bool JsonValue::is_object() const { return node_ != nullptr && as_json(node_)->is_object(); }
size_t JsonValue::size() const { return is_array() || is_object() ? as_json(node_)->size() : 0; }

std::shared_ptr<const JsonValue::Path> JsonValue::path() const {
  if (key_.empty() && index_ == kNoIndex) return parent_;  // the root
  auto path = std::make_shared<Path>();
  path->parent = parent_;
  path->key = key_;
  path->index = index_;
  return path;
}

JsonValue JsonValue::operator[](std::string_view key) const {
  const void* node = nullptr;
  if (is_object()) {
    const auto& members = as_json(node_)->get_ref<const Json::object_t&>();
    if (auto found = members.find(key); found != members.end()) node = &found->second;
  }
  return JsonValue(node, path(), key, kNoIndex);
}

JsonValue JsonValue::operator[](size_t index) const {
  const void* node = is_array() && index < size() ? &(*as_json(node_))[index] : nullptr;
  return JsonValue(node, path(), {}, index);
}

Result<std::string_view> JsonValue::string() const {
  if (!is_string()) return wrong("a string");
  return std::string_view(as_json(node_)->get_ref<const std::string&>());
}

Result<double> JsonValue::number() const {
  if (is_null() || !as_json(node_)->is_number()) return wrong("a number");
  const double value = as_json(node_)->get<double>();
  if (!std::isfinite(value)) return wrong("a finite number");
  return value;
}

Result<int64_t> JsonValue::integer(int64_t least, int64_t most) const {
  const auto expected = [&] { return fmt::format("an integer from {} to {}", least, most); };
  if (is_null() || !as_json(node_)->is_number_integer()) return wrong(expected());
  const Json& json = *as_json(node_);
  if (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return wrong(expected());
  }
  const int64_t value = json.get<int64_t>();
  if (value < least || value > most) return wrong(expected());
  return value;
}

Status JsonValue::each_member(
    const std::function<Status(std::string_view, const JsonValue&)>& visit) const {
  if (!is_object()) return wrong("an object");
  const std::shared_ptr<const Path> here = path();
  for (const auto& [key, value] : as_json(node_)->get_ref<const Json::object_t&>()) {
    TESSERA_RETURN_IF_ERROR(visit(key, JsonValue(&value, here, key, kNoIndex)));
  }
  return {};
}

Status JsonValue::each_element(const std::function<Status(size_t, const JsonValue&)>& visit) const {
  if (!is_array()) return wrong("an array");
  const std::shared_ptr<const Path> here = path();
  size_t index = 0;
  for (const Json& value : *as_json(node_)) {
    TESSERA_RETURN_IF_ERROR(visit(index, JsonValue(&value, here, {}, index)));
    ++index;
  }
  return {};
}

Status JsonValue::read(std::string_view key, bool& target) const {
  const JsonValue value = (*this)[key];
  if (value.is_null()) return {};
  if (!as_json(value.node_)->is_boolean()) return value.wrong("true or false");
  target = as_json(value.node_)->get<bool>();
  return {};
}

Status JsonValue::read(std::string_view key, std::string& target) const {
  return (*this)[key].is_null() ? Status() : require(key, target);
}

Status JsonValue::require(std::string_view key, std::string& target) const {
  TESSERA_ASSIGN_OR_RETURN(target, (*this)[key].string());
  return {};
}

Status JsonValue::read(std::string_view key, int64_t& target, int64_t most) const {
  const JsonValue value = (*this)[key];
  if (value.is_null()) return {};
  TESSERA_ASSIGN_OR_RETURN(target, value.integer(0, most));
  return {};
}

std::string JsonValue::where() const {
  std::vector<std::string> steps;
  const auto add = [&](std::string_view key, size_t index) {
    if (index != kNoIndex) {
      steps.push_back(fmt::format("[{}]", index));
    } else if (!key.empty()) {
      steps.push_back(fmt::format(".{}", key));
    }
  };
  add(key_, index_);
  const Path* root = parent_.get();
  for (; root->parent != nullptr; root = root->parent.get()) add(root->key, root->index);
  std::string joined;
  for (size_t i = steps.size(); i-- > 0;) joined += steps[i];
  if (!joined.empty() && joined[0] == '.') joined.erase(0, 1);
  return joined.empty() ? root->source : fmt::format("{}: {}", root->source, joined);
}

Status JsonValue::wrong(std::string_view expected) const {
  return refuse(fmt::format("expected {}, found {}", expected, describe(as_json(node_))));
}

Status JsonValue::refuse(std::string_view sentence) const {
  return invalid_input(fmt::format("{}: {}", where(), sentence));
}

}  // namespace tessera::tokenizer
