#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "tokenizer/charsmap.h"
#include "tokenizer/components.h"
#include "tokenizer/rewriter.h"
#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

// A character that takes no place has the source of what lies before it; so in the reference.
void write(const std::vector<NormalCharacter>& characters, Segment& segment, Scratch& scratch) {
  Rewriter rewriter(segment, scratch);
  const std::string_view text = segment.text;
  size_t at = 0;
  for (const NormalCharacter& c : characters) {
    append_utf8(c.character, rewriter.out);
    rewriter.from(c.taken > 0 || at == 0 ? at : at - 1);
    for (uint32_t i = 0; i < c.taken; ++i) at += character_length(text, at);
  }
  rewriter.finish();
}

void normalize(NormalForm form, Segment& segment, Scratch& scratch) {
  if (is_ascii(segment.text)) return;
  normalize(form, segment.text, scratch.characters);
  write(scratch.characters, segment, scratch);
}

class UnicodeForm final : public Normalizer {
 public:
  explicit UnicodeForm(NormalForm form) : form_(form) {}
  Status apply(Segment& segment, Scratch& scratch) const override {
    normalize(form_, segment, scratch);
    return {};
  }

 private:
  NormalForm form_;
};

// Drops the characters of some groups.
void remove_groups(uint16_t groups, Segment& segment, Scratch& scratch) {
  Rewriter rewriter(segment, scratch);
  const std::string_view text = segment.text;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    if ((groups_of(next_character(text, pos)) & groups) == 0) {
      rewriter.keep(begin, pos);
    } else if (begin == 0) {
      segment.at_origin = false;
    }
  }
  rewriter.finish();
}

void lowercase(Segment& segment, Scratch& scratch) {
  Rewriter rewriter(segment, scratch);
  const std::string_view text = segment.text;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    append_lowercase(next_character(text, pos), rewriter.out);
    rewriter.from(begin);
  }
  rewriter.finish();
}

class Lowercase final : public Normalizer {
 public:
  Status apply(Segment& segment, Scratch& scratch) const override {
    lowercase(segment, scratch);
    return {};
  }
};

class StripAccents final : public Normalizer {
 public:
  Status apply(Segment& segment, Scratch& scratch) const override {
    if (!is_ascii(segment.text)) remove_groups(character::kMark, segment, scratch);
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
    if (segment.sources.empty() && clean_ascii(segment, scratch.text)) return {};
    if (clean_text_) clean(segment, scratch);
    if (space_ideographs_) space_ideographs(segment, scratch);
    if (strip_accents_) {
      normalize(NormalForm::kNfd, segment, scratch);
      remove_groups(character::kNonspacingMark, segment, scratch);
    }
    if (lowercase_) lowercase(segment, scratch);
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

  static void clean(Segment& segment, Scratch& scratch) {
    Rewriter rewriter(segment, scratch);
    const std::string_view text = segment.text;
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      const char32_t c = next_character(text, pos);
      const uint16_t groups = groups_of(c);
      const bool kept_control = c == '\t' || c == '\n' || c == '\r';
      if (c == 0 || c == kReplacement || ((groups & character::kOther) != 0 && !kept_control)) {
        if (begin == 0) segment.at_origin = false;
      } else if ((groups & character::kSpace) != 0) {
        rewriter.out += ' ';
        rewriter.from(begin);
      } else {
        rewriter.keep(begin, pos);
      }
    }
    rewriter.finish();
  }

  static void space_ideographs(Segment& segment, Scratch& scratch) {
    Rewriter rewriter(segment, scratch);
    const std::string_view text = segment.text;
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      const bool ideograph = (groups_of(next_character(text, pos)) & character::kIdeograph) != 0;
      if (ideograph) rewriter.out += ' ';
      rewriter.out.append(text, begin, pos - begin);
      if (ideograph) rewriter.out += ' ';
      rewriter.from(begin);
    }
    rewriter.finish();
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
    Rewriter rewriter(segment, scratch);
    const std::string_view text = segment.text;
    size_t done = 0;
    const auto replace = [&](Span match) {
      if (rewriter.out.size() > kTextLimit) return;
      if (match.begin == 0 && match.end > 0 && content_.empty()) segment.at_origin = false;
      rewriter.keep(done, match.begin);
      rewriter.out += content_;
      if (match.end > 0) {
        rewriter.from(match.end - 1);
      } else {
        rewriter.from_before(0);
      }
      done = match.end;
    };
    if (literal_.empty()) {
      TESSERA_RETURN_IF_ERROR(pattern_.for_each_match(text, scratch.match, replace));
    } else {
      for (size_t at; (at = text.find(literal_, done)) != std::string_view::npos;) {
        replace({static_cast<uint32_t>(at), static_cast<uint32_t>(at + literal_.size())});
        TESSERA_RETURN_IF_ERROR(check_text_size(rewriter.out.size()));
      }
    }
    rewriter.keep(done, text.size());
    TESSERA_RETURN_IF_ERROR(check_text_size(rewriter.out.size()));
    rewriter.finish();
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
  Status apply(Segment& segment, Scratch& scratch) const override {
    if (segment.text.empty()) return {};
    Rewriter rewriter(segment, scratch);
    rewriter.out += prefix_;
    rewriter.from(0);
    rewriter.keep(0, segment.text.size());
    rewriter.finish();
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

  Status apply(Segment& segment, Scratch& scratch) const override {
    const std::string_view text = segment.text;
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
    Rewriter rewriter(segment, scratch);
    rewriter.keep(begin, end);
    rewriter.finish();
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
  explicit Precompiled(CharsMap map) : map_(std::move(map)) {
    for (size_t c = 0; c < stays_.size(); ++c) {
      const char byte = static_cast<char>(c);
      stays_[c] = !map_.shortest(std::string_view(&byte, 1)).has_value();
    }
  }

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
    if (map_.empty()) return {};
    std::vector<NormalCharacter>& made = scratch.characters;
    made.clear();
    const std::string_view text = segment.text;
    for (size_t pos = 0; pos < text.size();) {
      const std::string_view grapheme = text.substr(pos, grapheme_end(text, pos) - pos);
      pos += grapheme.size();
      if (grapheme.size() == 1 && stays_[static_cast<uint8_t>(grapheme[0])]) {
        made.push_back({static_cast<uint8_t>(grapheme[0]), 1});
        continue;
      }
      const auto whole = grapheme.size() < kShortGrapheme ? map_.shortest(grapheme) : std::nullopt;
      if (whole.has_value()) {
        replace(grapheme, whole->replacement, made);
      } else {
        replace_characters(grapheme, made);
      }
      TESSERA_RETURN_IF_ERROR(check_text_size(made.size()));
    }
    write(made, segment, scratch);
    return check_text_size(segment.text.size());
  }

 private:
  static constexpr size_t kShortGrapheme = 6;

  void replace_characters(std::string_view grapheme, std::vector<NormalCharacter>& made) const {
    for (size_t pos = 0; pos < grapheme.size() && made.size() <= kTextLimit;) {
      const std::string_view character = grapheme.substr(pos, character_length(grapheme, pos));
      const auto rule = map_.shortest(character);
      replace(character, rule.has_value() ? rule->replacement : character, made);
      pos += character.size();
    }
  }

  // The characters take the place of the old ones one by one, the last of them that of all that are
  // left; where there is none, the one before. What vanishes at the beginning is not counted: so in
  // the reference, whose sources lag behind from there on.
  static void replace(std::string_view old, std::string_view text,
                      std::vector<NormalCharacter>& made) {
    size_t left = count_characters(old);
    for (size_t pos = 0; pos < text.size();) {
      made.push_back({next_character(text, pos), left > 0 ? 1u : 0u});
      if (left > 0) --left;
    }
    if (!made.empty()) made.back().taken += static_cast<uint32_t>(left);
  }

  CharsMap map_;
  std::array<bool, 128> stays_{};  // the ASCII characters without a rule
};

// Control characters vanish, separators become spaces: the first step of SentencePiece's NMT maps.
class Nmt final : public Normalizer {
 public:
  Status apply(Segment& segment, Scratch& scratch) const override {
    Rewriter rewriter(segment, scratch);
    const std::string_view text = segment.text;
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      const char32_t c = next_character(text, pos);
      if (is_dropped(c)) {
        if (begin == 0) segment.at_origin = false;
      } else if (is_separator(c)) {
        rewriter.out += ' ';
        rewriter.from(begin);
      } else {
        rewriter.keep(begin, pos);
      }
    }
    rewriter.finish();
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
