#include <fmt/format.h>

#include "tokenizer/charsmap.h"
#include "tokenizer/components.h"
#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

class UnicodeForm final : public Normalizer {
 public:
  explicit UnicodeForm(NormalForm form) : form_(form) {}
  Status apply(Segment& segment, Scratch&) const override {
    normalize(form_, segment.text);
    return {};
  }

 private:
  NormalForm form_;
};

// Drops the characters of some groups.
void remove_groups(uint16_t groups, Segment& segment, std::string& buffer) {
  buffer.clear();
  const std::string_view text = segment.text;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    if ((groups_of(next_character(text, pos)) & groups) == 0) {
      buffer.append(text, begin, pos - begin);
    } else if (begin == 0) {
      segment.at_origin = false;
    }
  }
  segment.text.swap(buffer);
}

void lowercase(Segment& segment, std::string& buffer) {
  buffer.clear();
  const std::string_view text = segment.text;
  for (size_t pos = 0; pos < text.size();) append_lowercase(next_character(text, pos), buffer);
  segment.text.swap(buffer);
}

class Lowercase final : public Normalizer {
 public:
  Status apply(Segment& segment, Scratch& scratch) const override {
    lowercase(segment, scratch.text);
    return {};
  }
};

class StripAccents final : public Normalizer {
 public:
  Status apply(Segment& segment, Scratch& scratch) const override {
    if (!is_ascii(segment.text)) remove_groups(character::kMark, segment, scratch.text);
    return {};
  }
};

class BertNormalizer final : public Normalizer {
 public:
  static Result<std::unique_ptr<Normalizer>> make(const JsonValue& json) {
    auto made = std::make_unique<BertNormalizer>();
    TESSERA_RETURN_IF_ERROR(json.read("clean_text", made->clean_text_));
    TESSERA_RETURN_IF_ERROR(json.read("handle_chinese_chars", made->space_ideographs_));
    TESSERA_RETURN_IF_ERROR(json.read("lowercase", made->lowercase_));
    made->strip_accents_ = made->lowercase_;  // what null means
    TESSERA_RETURN_IF_ERROR(json.read("strip_accents", made->strip_accents_));
    return std::unique_ptr<Normalizer>(std::move(made));
  }

  Status apply(Segment& segment, Scratch& scratch) const override {
    if (clean_ascii(segment, scratch.text)) return {};
    if (clean_text_) clean(segment, scratch.text);
    if (space_ideographs_) space_ideographs(segment.text, scratch.text);
    if (strip_accents_) {
      normalize(NormalForm::kNfd, segment.text);
      remove_groups(character::kNonspacingMark, segment, scratch.text);
    }
    if (lowercase_) lowercase(segment, scratch.text);
    return {};
  }

 private:
  // Does all the steps at once when the text is ASCII.
  bool clean_ascii(Segment& segment, std::string& buffer) const {
    const std::string& text = segment.text;
    if (!is_ascii(text)) return false;
    buffer.resize(text.size());
    size_t size = 0;
    for (const char c : text) {
      const bool control = (static_cast<unsigned char>(c) < 32 || c == 127);
      char out = c;
      if (clean_text_ && control) {
        if (c != '\t' && c != '\n' && c != '\r') continue;
        out = ' ';
      }
      if (lowercase_ && out >= 'A' && out <= 'Z') out = static_cast<char>(out + 32);
      buffer[size++] = out;
    }
    buffer.resize(size);
    segment.text.swap(buffer);
    return true;
  }

  static void clean(Segment& segment, std::string& buffer) {
    buffer.clear();
    const std::string_view text = segment.text;
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      const char32_t c = next_character(text, pos);
      const uint16_t groups = groups_of(c);
      const bool kept_control = c == '\t' || c == '\n' || c == '\r';
      if (c == 0 || c == kReplacement || ((groups & character::kOther) != 0 && !kept_control)) {
        if (begin == 0) segment.at_origin = false;
      } else if ((groups & character::kSpace) != 0) {
        buffer += ' ';
      } else {
        buffer.append(text, begin, pos - begin);
      }
    }
    segment.text.swap(buffer);
  }

  static void space_ideographs(std::string& text, std::string& buffer) {
    buffer.clear();
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      const bool ideograph = (groups_of(next_character(text, pos)) & character::kIdeograph) != 0;
      if (ideograph) buffer += ' ';
      buffer.append(text, begin, pos - begin);
      if (ideograph) buffer += ' ';
    }
    text.swap(buffer);
  }

  bool clean_text_ = true;
  bool space_ideographs_ = true;
  bool lowercase_ = true;
  bool strip_accents_ = true;
};

class Replace final : public Normalizer {
 public:
  Replace(Regex pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  static Result<std::unique_ptr<Normalizer>> make(const JsonValue& json) {
    std::string content;
    TESSERA_RETURN_IF_ERROR(json.require("content", content));
    std::string literal;
    const JsonValue text = json["pattern"]["String"];
    if (text.is_string()) literal = *text.string();
    TESSERA_ASSIGN_OR_RETURN(Regex pattern, make_pattern(json["pattern"]));
    auto made = std::make_unique<Replace>(std::move(pattern), std::move(content));
    made->literal_ = std::move(literal);
    return std::unique_ptr<Normalizer>(std::move(made));
  }

  Status apply(Segment& segment, Scratch& scratch) const override {
    if (segment.text.empty()) return {};
    std::string& buffer = scratch.text;
    buffer.clear();
    const std::string_view text = segment.text;
    size_t done = 0;
    Status size_status;
    const auto replace = [&](Span match) {
      if (buffer.size() > kTextLimit) return;
      if (match.begin == 0 && match.end > 0 && content_.empty()) segment.at_origin = false;
      buffer.append(text, done, match.begin - done);
      buffer += content_;
      done = match.end;
    };
    if (literal_.empty()) {
      TESSERA_RETURN_IF_ERROR(pattern_.for_each_match(text, scratch.match, replace));
    } else {
      for (size_t at; (at = text.find(literal_, done)) != std::string_view::npos;) {
        replace({static_cast<uint32_t>(at), static_cast<uint32_t>(at + literal_.size())});
        TESSERA_RETURN_IF_ERROR(check_text_size(buffer.size()));
      }
    }
    buffer.append(text, done);
    TESSERA_RETURN_IF_ERROR(check_text_size(buffer.size()));
    segment.text.swap(buffer);
    return {};
  }

 private:
  Regex pattern_;
  std::string content_;
  std::string literal_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  Status apply(Segment& segment, Scratch&) const override {
    if (!segment.text.empty()) segment.text.insert(0, prefix_);
    return check_text_size(segment.text.size());
  }

 private:
  std::string prefix_;
};

class Strip final : public Normalizer {
 public:
  static Result<std::unique_ptr<Normalizer>> make(const JsonValue& json) {
    auto made = std::make_unique<Strip>();
    TESSERA_RETURN_IF_ERROR(json.read("strip_left", made->left_));
    TESSERA_RETURN_IF_ERROR(json.read("strip_right", made->right_));
    return std::unique_ptr<Normalizer>(std::move(made));
  }

  Status apply(Segment& segment, Scratch&) const override {
    std::string& text = segment.text;
    const auto is_space = [&](size_t pos) {
      return (groups_of(next_character(text, pos)) & character::kSpace) != 0;
    };
    size_t begin = 0;
    size_t end = text.size();
    if (left_) {
      while (begin < end && is_space(begin)) begin += character_length(text, begin);
    }
    if (right_) {
      for (size_t last; end > begin && is_space(last = previous_character(text, end));) end = last;
    }
    text.erase(end);
    text.erase(0, begin);
    if (begin > 0) segment.at_origin = false;
    return {};
  }

 private:
  bool left_ = true;
  bool right_ = true;
};

// The character map of SentencePiece as the `tokenizers` library applies it: by grapheme where that
// is short, else by character, and with the shortest rule that matches the beginning.
class Precompiled final : public Normalizer {
 public:
  explicit Precompiled(CharsMap map) : map_(std::move(map)) {}

  static Result<std::unique_ptr<Normalizer>> make(const JsonValue& json) {
    std::string text;
    TESSERA_RETURN_IF_ERROR(json.require("precompiled_charsmap", text));
    const std::optional<std::string> bytes = decode_base64(text);
    if (!bytes.has_value()) return json["precompiled_charsmap"].refuse("expected base64");
    Result<CharsMap> map = CharsMap::parse(*bytes);
    if (!map.ok()) return json["precompiled_charsmap"].refuse(map.status().message());
    return std::unique_ptr<Normalizer>(std::make_unique<Precompiled>(std::move(map).value()));
  }

  Status apply(Segment& segment, Scratch& scratch) const override {
    std::string& out = scratch.text;
    out.clear();
    const std::string_view text = segment.text;
    for (size_t pos = 0; pos < text.size();) {
      const std::string_view grapheme = text.substr(pos, grapheme_end(text, pos) - pos);
      pos += grapheme.size();
      const auto whole = grapheme.size() < kShortGrapheme ? map_.shortest(grapheme) : std::nullopt;
      if (whole.has_value()) {
        out += whole->replacement;
      } else {
        append_characters(grapheme, out);
      }
      TESSERA_RETURN_IF_ERROR(check_text_size(out.size()));
    }
    segment.text.swap(out);
    return {};
  }

 private:
  static constexpr size_t kShortGrapheme = 6;

  void append_characters(std::string_view grapheme, std::string& out) const {
    for (size_t pos = 0; pos < grapheme.size() && out.size() <= kTextLimit;) {
      const std::string_view character = grapheme.substr(pos, character_length(grapheme, pos));
      const auto rule = map_.shortest(character);
      out += rule.has_value() ? rule->replacement : character;
      pos += character.size();
    }
  }

  CharsMap map_;
};

// Control characters vanish, separators become spaces: the first step of SentencePiece's NMT maps.
class Nmt final : public Normalizer {
 public:
  Status apply(Segment& segment, Scratch& scratch) const override {
    std::string& out = scratch.text;
    out.clear();
    const std::string_view text = segment.text;
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      const char32_t c = next_character(text, pos);
      if (is_dropped(c)) {
        if (begin == 0) segment.at_origin = false;
      } else if (is_separator(c)) {
        out += ' ';
      } else {
        out.append(text, begin, pos - begin);
      }
    }
    segment.text.swap(out);
    return {};
  }

 private:
  static bool is_dropped(char32_t c) {
    return (c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F ||
           c == 0x8F || c == 0x9F;
  }
  static bool is_separator(char32_t c) {
    return c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 ||
           (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
           c == 0xFEFF || c == 0xFFFD;
  }
};

Result<std::unique_ptr<Normalizer>> make_normalizer(std::string_view type, const JsonValue& json) {
  const auto form = [](NormalForm which) -> Result<std::unique_ptr<Normalizer>> {
    return std::unique_ptr<Normalizer>(std::make_unique<UnicodeForm>(which));
  };
  if (type == "NFC") return form(NormalForm::kNfc);
  if (type == "NFD") return form(NormalForm::kNfd);
  if (type == "NFKC") return form(NormalForm::kNfkc);
  if (type == "NFKD") return form(NormalForm::kNfkd);
  if (type == "BertNormalizer") return BertNormalizer::make(json);
  if (type == "Lowercase") return std::unique_ptr<Normalizer>(std::make_unique<Lowercase>());
  if (type == "StripAccents") return std::unique_ptr<Normalizer>(std::make_unique<StripAccents>());
  if (type == "Replace") return Replace::make(json);
  if (type == "Strip") return Strip::make(json);
  if (type == "Precompiled") return Precompiled::make(json);
  if (type == "Nmt") return std::unique_ptr<Normalizer>(std::make_unique<Nmt>());
  if (type == "Prepend") {
    std::string prefix;
    TESSERA_RETURN_IF_ERROR(json.require("prepend", prefix));
    return std::unique_ptr<Normalizer>(std::make_unique<Prepend>(std::move(prefix)));
  }
  return unknown_type(json, "normalizer", type);
}

}  // namespace

Status make_normalizers(const JsonValue& json, std::vector<std::unique_ptr<Normalizer>>& steps) {
  return each_step(json, "normalizers",
                   [&](std::string_view type, const JsonValue& step) -> Status {
                     TESSERA_ASSIGN_OR_RETURN(auto made, make_normalizer(type, step));
                     steps.push_back(std::move(made));
                     return {};
                   });
}

}  // namespace tessera::tokenizer
