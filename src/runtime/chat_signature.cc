#include "runtime/chat_signature.h"

#include <fmt/format.h>

#include <cctype>

#include "base/status.h"

namespace tessera {
namespace {

// Published ones have up to 20 KB.
constexpr size_t kTemplateLimitBytes = size_t{1} << 20;
constexpr std::string_view kSpace = " \t\n\r\f\v";

// A system prompt of the template itself.
bool is_system_text(std::string_view literal) {
  return literal.starts_with("You are ") ||
         (literal.starts_with("<|im_start|>system\n") && literal.ends_with("<|im_end|>\n") &&
          literal.size() > std::string_view("<|im_start|>system\n<|im_end|>\n").size());
}

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

class Normalizer {
 public:
  explicit Normalizer(std::string_view text) : text_(text) {
    // The engine does so.
    if (text_.ends_with('\n')) text_.remove_suffix(1);
  }

  Result<ChatSignature> run() {
    for (size_t at = 0; at < text_.size();) {
      const size_t tag = find_tag(at);
      add_plain(text_.substr(at, tag - at), tag);
      if (tag == text_.size()) break;
      TESSERA_ASSIGN_OR_RETURN(at, add_tag(tag));
    }
    signature_.hash = 0xcbf29ce484222325;
    for (const char c : out_) {
      signature_.hash = (signature_.hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    }
    return signature_;
  }

 private:
  size_t find_tag(size_t from) const {
    for (size_t i = from; i + 1 < text_.size(); ++i) {
      if (text_[i] == '{' && (text_[i + 1] == '{' || text_[i + 1] == '%' || text_[i + 1] == '#')) {
        return i;
      }
    }
    return text_.size();
  }

  // What stands between tags, as far as it is written.
  void add_plain(std::string_view plain, size_t tag) {
    if (strip_next_) {
      plain.remove_prefix(std::min(plain.find_first_not_of(kSpace), plain.size()));
    } else if (trim_next_ && plain.starts_with('\n')) {
      plain.remove_prefix(1);
    }
    const bool is_end = tag >= text_.size();
    if (!is_end && text_.substr(tag + 2).starts_with('-')) {
      plain = plain.substr(0, plain.find_last_not_of(kSpace) + 1);
    } else if (!is_end && text_[tag + 1] != '{' && !text_.substr(tag + 2).starts_with('+')) {
      const size_t last = plain.find_last_not_of(" \t");
      const bool begins_line = last == std::string_view::npos
                                   ? tag == plain.size() || text_[tag - plain.size() - 1] == '\n' ||
                                         (trim_next_ && plain.empty())
                                   : plain[last] == '\n';
      if (begins_line) plain = plain.substr(0, last + 1);
    }
    strip_next_ = trim_next_ = false;
    if (plain.empty()) return;
    out_ += 'T';
    out_ += plain;
    out_ += '\0';
  }

  // A tag from its first brace; gives where the text goes on.
  Result<size_t> add_tag(size_t begin) {
    const char kind = text_[begin + 1];
    const char closing = kind == '{' ? '}' : kind;
    size_t i = begin + 2;
    if (i < text_.size() && (text_[i] == '-' || text_[i] == '+')) ++i;
    const size_t mark = out_.size();
    out_ += kind;
    while (i < text_.size()) {
      const char c = text_[i];
      if (c == closing && text_.substr(i + 1).starts_with('}')) {
        strip_next_ = text_[i - 1] == '-';
        if (strip_next_ && out_.back() == '-') out_.pop_back();
        trim_next_ = kind != '{';
        if (kind == '#') out_.resize(mark);
        if (kind != '#') out_ += '\0';
        return i + 2;
      }
      if (kind != '#' && (c == '\'' || c == '"')) {
        TESSERA_ASSIGN_OR_RETURN(i, add_literal(i));
        continue;
      }
      if (kSpace.find(c) != std::string_view::npos) {
        const size_t next = text_.find_first_not_of(kSpace, i);
        if (next != std::string_view::npos && is_word(out_.back()) && is_word(text_[next])) {
          out_ += ' ';
        }
        i = std::min(next, text_.size());
        continue;
      }
      out_ += c;
      ++i;
    }
    return invalid_input("chat template: expected an end of the tag, found the end of the text");
  }

  // A string in quotes; gives what is behind it.
  Result<size_t> add_literal(size_t begin) {
    std::string literal;
    for (size_t i = begin + 1; i < text_.size(); ++i) {
      if (text_[i] == text_[begin]) {
        put_literal(literal);
        return i + 1;
      }
      if (text_[i] == '\\' && i + 1 < text_.size()) {
        const char c = text_[++i];
        if (c != 'n' && c != 't' && c != '\\' && c != '\'' && c != '"') literal += '\\';
        literal += c == 'n' ? '\n' : c == 't' ? '\t' : c;
      } else {
        literal += text_[i];
      }
    }
    return invalid_input("chat template: expected a closing quote, found the end of the text");
  }

  void put_literal(const std::string& literal) {
    // The kinds of marks keep literals apart from everything that is not one.
    constexpr char kOpen = '\1', kClose = '\2';
    if (out_.ends_with("raise_exception(")) return;
    if (is_system_text(literal)) {
      signature_.texts.push_back(literal);
      out_ += '\3';
      return;
    }
    if (out_.ends_with("\2+")) {  // 'a' + 'b' is 'ab'
      out_.resize(out_.size() - 2);
    } else {
      out_ += kOpen;
    }
    out_ += literal;
    out_ += kClose;
  }

  std::string_view text_;
  std::string out_;
  ChatSignature signature_;
  bool strip_next_ = false;  // the last tag ended with -
  bool trim_next_ = false;   // the last tag takes a line end with it
};

}  // namespace

Result<ChatSignature> chat_signature(std::string_view chat_template) {
  if (chat_template.size() > kTemplateLimitBytes) {
    return unsupported(fmt::format("chat template: expected at most {} bytes, found {}",
                                   kTemplateLimitBytes, chat_template.size()));
  }
  return Normalizer(chat_template).run();
}

}  // namespace tessera
