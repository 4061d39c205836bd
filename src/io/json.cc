#include "io/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "io/utf8.h"

namespace tessera {
namespace {

constexpr size_t kShortBytes = 40;
constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();

// Builds the tree from the parser's events; the parser itself does not recurse.
class Builder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(std::string_view text, const std::string& source, const JsonLimits& limits)
      : text_(text), source_(source), limits_(limits) {}

  Json root;
  Status status;

  bool null() override { return add(Json{}); }
  bool boolean(bool value) override { return add(Json{value}); }
  bool number_integer(int64_t value) override { return add(Json{value}); }
  bool number_unsigned(uint64_t value) override {
    constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    return value <= kMost ? add(Json{static_cast<int64_t>(value)}) : add(Json{value});
  }
  bool number_float(double value, const std::string&) override { return add(Json{value}); }
  bool string(std::string& value) override { return add(Json{std::move(value)}); }
  bool binary(nlohmann::json::binary_t&) override { return false; }
  bool start_array(size_t) override { return open(Json{Json::Array{}}); }
  bool start_object(size_t) override { return open(Json{Json::Object{}}); }
  bool end_array() override {
    open_.pop_back();
    return true;
  }
  bool key(std::string& name) override {
    std::get<Json::Object>(open_.back()->value).push_back({std::move(name), {}});
    return true;
  }
  bool end_object() override {
    auto& members = std::get<Json::Object>(open_.back()->value);
    open_.pop_back();
    std::sort(members.begin(), members.end(),
              [](const auto& a, const auto& b) { return a.key < b.key; });
    const auto twin =
        std::adjacent_find(members.begin(), members.end(),
                           [](const auto& a, const auto& b) { return a.key == b.key; });
    if (twin == members.end()) return true;
    return fail(fmt::format("expected each key once, found {} twice", quote(twin->key)));
  }
  bool parse_error(size_t position, const std::string& last_token,
                   const nlohmann::detail::exception& error) override {
    const size_t read = std::min(position, text_.size());
    const std::string_view before = text_.substr(0, read);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const size_t line_start = before.rfind('\n') + 1;  // 0 where there is no earlier line
    std::string found = quote(last_token);
    if (position > text_.size()) found = "its end";
    if (std::string_view(error.what()).find("ill-formed UTF-8") != std::string_view::npos) {
      found = "bytes that are not UTF-8";
    }
    return fail(fmt::format("expected valid JSON, found {} at line {}, column {}", found, line,
                            read - line_start));
  }

 private:
  bool fail(const std::string& message) {
    status = invalid_input(fmt::format("{}: {}", source_, message));
    return false;
  }

  Json* put(Json value) {
    if (open_.empty()) {
      root = std::move(value);
      return &root;
    }
    if (auto* items = std::get_if<Json::Array>(&open_.back()->value)) {
      return &items->emplace_back(std::move(value));
    }
    Json& target = std::get<Json::Object>(open_.back()->value).back().value;
    target = std::move(value);
    return &target;
  }

  bool add(Json value) {
    if (++values_ > limits_.values) {
      return fail(fmt::format("expected at most {} JSON values, found more", limits_.values));
    }
    put(std::move(value));
    return true;
  }

  bool open(Json container) {
    if (open_.size() >= limits_.depth) {
      return fail(fmt::format("expected JSON at most {} levels deep, found more", limits_.depth));
    }
    if (++values_ > limits_.values) {
      return fail(fmt::format("expected at most {} JSON values, found more", limits_.values));
    }
    open_.push_back(put(std::move(container)));
    return true;
  }

  std::string_view text_;
  const std::string& source_;
  JsonLimits limits_;
  size_t values_ = 0;
  // The containers not yet closed. Each is the last element of the one before, which does not grow
  // meanwhile.
  std::vector<Json*> open_;
};

void write_string(std::string_view text, size_t limit, std::string& out) {
  out += '"';
  for (const char c : text) {
    if (out.size() > limit) return;
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

// Stops soon after out has grown past limit. Recursion is bounded by the parser's limit on depth.
void write(const Json& json, size_t limit, std::string& out) {
  if (out.size() > limit) return;
  if (const auto* truth = json.as<bool>()) {
    out += *truth ? "true" : "false";
  } else if (const auto* integer = json.as<int64_t>()) {
    out += fmt::format("{}", *integer);
  } else if (const auto* large = json.as<uint64_t>()) {
    out += fmt::format("{}", *large);
  } else if (const auto* number = json.as<double>()) {
    const std::string digits = fmt::format("{}", *number);
    out += digits;
    if (digits.find_first_of(".e") == std::string::npos) out += ".0";
  } else if (const auto* text = json.as<std::string>()) {
    write_string(*text, limit, out);
  } else if (const auto* items = json.as<Json::Array>()) {
    out += '[';
    for (size_t i = 0; i < items->size() && out.size() <= limit; ++i) {
      if (i > 0) out += ',';
      write((*items)[i], limit, out);
    }
    out += ']';
  } else if (const auto* members = json.as<Json::Object>()) {
    out += '{';
    for (size_t i = 0; i < members->size() && out.size() <= limit; ++i) {
      if (i > 0) out += ',';
      write_string((*members)[i].key, limit, out);
      out += ':';
      write((*members)[i].value, limit, out);
    }
    out += '}';
  } else {
    out += "null";
  }
}

// Cuts between characters.
void cut(std::string& text) {
  if (text.size() <= kShortBytes) return;
  size_t end = kShortBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  text.resize(end);
  text += "...";
}

}  // namespace

const Json* Json::find(std::string_view key) const {
  const auto* members = as<Object>();
  if (members == nullptr) return nullptr;
  const auto place =
      std::lower_bound(members->begin(), members->end(), key,
                       [](const Member& member, std::string_view k) { return member.key < k; });
  return place != members->end() && place->key == key ? &place->value : nullptr;
}

Result<Json> parse_json(std::string_view text, const std::string& source,
                        const JsonLimits& limits) {
  try {
    // The parser takes a NUL for the end of the text.
    if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
      return invalid_input(
          fmt::format("{}: expected valid JSON, found a NUL at byte {}", source, nul));
    }
    Builder builder(text, source, limits);
    if (nlohmann::json::sax_parse(text.begin(), text.end(), &builder))
      return std::move(builder.root);
    return builder.status;
  } catch (const std::bad_alloc&) {
    return out_of_memory(
        fmt::format("{}: not enough memory to parse {} bytes of JSON", source, text.size()));
  } catch (const std::exception& error) {
    return invalid_input(
        fmt::format("{}: expected valid JSON, found {}", source, quote(error.what())));
  }
}

std::string to_text(const Json& value) {
  std::string out;
  write(value, kNoLimit, out);
  return out;
}

std::string to_json_string(std::string_view text) {
  std::string out;
  write_string(text, kNoLimit, out);
  return out;
}

std::string shortened(const Json& value) {
  std::string out;
  write(value, kShortBytes, out);
  cut(out);
  return out;
}

std::string quote(std::string_view text) {
  std::string readable;
  while (!text.empty() && readable.size() <= kShortBytes) {
    const size_t bytes = character_bytes(text);
    if (bytes == 0) {
      readable += fmt::format("<{:02x}>", static_cast<unsigned char>(text[0]));
    } else {
      readable += text.substr(0, bytes);
    }
    text.remove_prefix(std::max<size_t>(bytes, 1));
  }
  cut(readable);
  return to_json_string(readable);
}

bool is_utf8(std::string_view text) { return find_invalid_utf8(text) == std::string_view::npos; }

}  // namespace tessera
