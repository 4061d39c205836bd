#include "io/json_at.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace tessera {

Status JsonAt::failure(StatusCode code, const std::string& message) const {
  if (path_.empty()) return {code, fmt::format("{}: {}", source_, message)};
  return {code, fmt::format("{}: {}: {}", source_, path_, message)};
}

Status JsonAt::wrong(const std::string& expected) const {
  return failure(StatusCode::kInvalidInput,
                 fmt::format("expected {}, found {}", expected, shortened(*value_)));
}

Status JsonAt::known(const std::vector<const char*>& keys) const {
  const Json::Object* members = value_->as<Json::Object>();
  if (members == nullptr) return wrong("an object");
  for (const Json::Member& member : *members) {
    const bool is_known = std::any_of(keys.begin(), keys.end(), [&](const char* key) {
      return member.key == std::string_view(key);
    });
    if (is_known) continue;
    std::string names;
    for (const char* key : keys) names += fmt::format("{}{}", names.empty() ? "" : ", ", key);
    return failure(StatusCode::kInvalidInput,
                   fmt::format("expected keys of {}, found {}", names, quote(member.key)));
  }
  return {};
}

std::optional<JsonAt> JsonAt::find(const char* key) const {
  const Json* value = value_->find(key);
  if (value == nullptr) return std::nullopt;
  return JsonAt(*value, source_, path_.empty() ? key : path_ + "." + key);
}

Result<JsonAt> JsonAt::need(const char* key) const {
  std::optional<JsonAt> found = find(key);
  if (found) return *std::move(found);
  return failure(StatusCode::kInvalidInput,
                 fmt::format("expected a member \"{}\", found none", key));
}

Result<std::string> JsonAt::text() const {
  const std::string* text = value_->as<std::string>();
  if (text == nullptr) return wrong("a text");
  // No path, name or pattern has one, and a system call would take it for the end.
  if (text->find('\0') != std::string::npos) return wrong("a text without NUL");
  return *text;
}

Result<int64_t> JsonAt::integer(int64_t least, int64_t most) const {
  const int64_t* integer = value_->as<int64_t>();
  if (integer == nullptr || *integer < least || *integer > most)
    return wrong(fmt::format("an integer from {} to {}", least, most));
  return *integer;
}

Result<double> JsonAt::number(double least, double most) const {
  double number = 0;
  if (const int64_t* integer = value_->as<int64_t>()) {
    number = static_cast<double>(*integer);
  } else if (const double* real = value_->as<double>()) {
    number = *real;
  } else {
    return wrong("a number");
  }
  // Written so that NaN is refused as well.
  if (!(number >= least && number <= most))
    return wrong(fmt::format("a number from {} to {}", least, most));
  return number;
}

Result<Truth> JsonAt::truth() const {
  const bool* truth = value_->as<bool>();
  if (truth == nullptr) return wrong("true or false");
  return *truth ? Truth::kYes : Truth::kNo;
}

Result<size_t> JsonAt::one_of(const std::vector<const char*>& names) const {
  const std::string* text = value_->as<std::string>();
  std::string all;
  for (size_t i = 0; i < names.size(); ++i) {
    if (text != nullptr && *text == names[i]) return i;
    all += fmt::format("{}{}", i == 0 ? "" : i + 1 == names.size() ? " or " : ", ", names[i]);
  }
  return wrong(all);
}

Result<std::vector<JsonAt>> JsonAt::list(size_t least, size_t most) const {
  const Json::Array* items = value_->as<Json::Array>();
  if (items == nullptr) return wrong("a list");
  if (items->size() < least || items->size() > most) {
    const std::string count =
        least == most ? fmt::format("{}", least) : fmt::format("{} to {}", least, most);
    return failure(StatusCode::kInvalidInput,
                   fmt::format("expected a list of {} values, found {}", count, items->size()));
  }
  std::vector<JsonAt> values;
  for (size_t i = 0; i < items->size(); ++i)
    values.push_back(JsonAt((*items)[i], source_, fmt::format("{}[{}]", path_, i)));
  return values;
}

Result<std::string> JsonAt::text_or(const char* key, std::string fallback) const {
  const std::optional<JsonAt> at = find(key);
  if (!at) return fallback;
  return at->text();
}

Result<int64_t> JsonAt::integer_or(const char* key, int64_t fallback, int64_t least,
                                   int64_t most) const {
  const std::optional<JsonAt> at = find(key);
  if (!at) return fallback;
  return at->integer(least, most);
}

Result<double> JsonAt::number_or(const char* key, double fallback, double least,
                                 double most) const {
  const std::optional<JsonAt> at = find(key);
  if (!at) return fallback;
  return at->number(least, most);
}

}  // namespace tessera
