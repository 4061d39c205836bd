#include "tokenizer/components.h"

#include <fmt/format.h>

#include <array>

#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

constexpr int kMaxNesting = 32;

Status visit_steps(const JsonValue& json, std::string_view members_key, int depth,
                   const std::function<Status(std::string_view, const JsonValue&)>& visit) {
  if (json.is_null()) return {};
  if (!json.is_object()) return json.wrong("an object");
  std::string type;
  TESSERA_RETURN_IF_ERROR(json.require("type", type));
  if (type != "Sequence") return visit(type, json);
  if (depth == kMaxNesting) {
    return json.refuse(fmt::format("expected at most {} nested sequences", kMaxNesting));
  }
  return json[members_key].each_element([&](size_t, const JsonValue& member) -> Status {
    if (member.is_null()) return member.wrong("an object");
    return visit_steps(member, members_key, depth + 1, visit);
  });
}

// The bytes that print as themselves keep their code; the others follow from U+0100 on.
constexpr bool prints(unsigned byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Spelling {
  std::array<std::string, 256> text;
  std::array<int16_t, 0x144> byte;
  Spelling() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      const char32_t character = prints(b) ? b : next++;
      append_utf8(character, text[b]);
      byte[character] = static_cast<int16_t>(b);
    }
  }
};

const Spelling& spelling() {
  static const Spelling instance;
  return instance;
}

}  // namespace

Status check_text_size(size_t bytes) {
  if (bytes <= kTextLimit) return {};
  return invalid_input(fmt::format("expected text of at most {} bytes for the tokenizer, found {}",
                                   kTextLimit, bytes));
}

Status each_step(const JsonValue& json, std::string_view members_key,
                 const std::function<Status(std::string_view, const JsonValue&)>& visit) {
  return visit_steps(json, members_key, 0, visit);
}

Status unknown_type(const JsonValue& json, std::string_view kind, std::string_view type) {
  return unsupported(
      fmt::format("{}: the {} type \"{}\" is not supported", json.where(), kind, type));
}

Result<Regex> make_pattern(const JsonValue& json) {
  const JsonValue text = json["String"];
  const JsonValue pattern = text.is_null() ? json["Regex"] : text;
  if (pattern.is_null()) return json.wrong("{\"String\": text} or {\"Regex\": pattern}");
  TESSERA_ASSIGN_OR_RETURN(const std::string_view source, pattern.string());
  Result<Regex> regex = text.is_null() ? Regex::compile(source) : Regex::literal(source);
  if (regex.ok()) return regex;
  return Status(regex.status().code(),
                fmt::format("{}: {}", pattern.where(), regex.status().message()));
}

Result<std::string> model_type(const JsonValue& json) {
  if (!json.is_object()) return json.wrong("an object");
  std::string type;
  TESSERA_RETURN_IF_ERROR(json.read("type", type));
  if (!type.empty()) return type;
  if (!json["merges"].is_null()) return std::string("BPE");
  if (json["vocab"].is_array()) return std::string("Unigram");
  const bool word_piece =
      !json["max_input_chars_per_word"].is_null() || !json["continuing_subword_prefix"].is_null();
  return std::string(word_piece ? "WordPiece" : "WordLevel");
}

Result<std::unique_ptr<Model>> make_model(const JsonValue& json, ByteSpelling spelling) {
  TESSERA_ASSIGN_OR_RETURN(const std::string type, model_type(json));
  if (type == "BPE") return make_bpe(json, spelling);
  if (type == "WordPiece") return make_word_piece(json);
  if (type == "Unigram") return make_unigram(json);
  return unknown_type(json, "model", type);
}

std::string_view byte_spelling(uint8_t byte) { return spelling().text[byte]; }

int byte_of_spelling(char32_t character) {
  return character < spelling().byte.size() ? spelling().byte[character] : -1;
}

}  // namespace tessera::tokenizer
