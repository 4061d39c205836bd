#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/regex.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <string>

namespace tessera::tokenizer {
namespace {

constexpr size_t kPatternLimit = 65536;
constexpr size_t kJitStackBytes = 1 << 20;
constexpr uint32_t kHeapLimitKib = 65536;

// Oniguruma's \w: unlike PCRE2's it holds marks, connectors and enclosed letters, but only some of
// the numbers; the raised digits and fractions of Latin-1 count outside of character classes alone.
constexpr std::string_view kWordClass =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}"
    "\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}";
constexpr std::string_view kLatinNumbers = "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";
// PCRE2's \s holds U+180E, which has not been a space since Unicode 6.3.
constexpr std::string_view kSpace = "\\p{White_Space}";
constexpr std::string_view kNotSpace = "\\P{White_Space}";

// Rewrites what Oniguruma and PCRE2 read differently.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  Result<std::string> translate() {
    while (pos_ < in_.size()) {
      const char c = in_[pos_];
      if (c == '\\') {
        TESSERA_RETURN_IF_ERROR(escape());
      } else if (in_class_) {
        TESSERA_RETURN_IF_ERROR(class_character(c));
      } else if (c == '[') {
        open_class();
      } else if (c == '(') {
        group();
      } else {
        out_ += c;
        ++pos_;
      }
    }
    return std::move(out_);
  }

 private:
  Status escape() {
    const char c = pos_ + 1 < in_.size() ? in_[pos_ + 1] : '\0';
    switch (c) {
      case 's':
        out_ += kSpace;
        break;
      case 'S':
        out_ += kNotSpace;
        break;
      case 'w':
        out_ += in_class_ ? std::string(kWordClass) : word("[");
        break;
      case 'W':
        if (in_class_) return unsupported("\\W inside a character class is not supported");
        out_ += word("[^");
        break;
      case 'b':
        out_ += in_class_ ? "\\b" : fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word("["));
        break;
      case 'h':
        out_ += in_class_ ? "0-9A-Fa-f" : "[0-9A-Fa-f]";
        break;
      case 'H':
        if (in_class_) return unsupported("\\H inside a character class is not supported");
        out_ += "[^0-9A-Fa-f]";
        break;
      default:
        out_ += in_.substr(pos_, 2);
    }
    pos_ += 2;
    return {};
  }

  static std::string word(std::string_view open) {
    return fmt::format("{}{}{}]", open, kWordClass, kLatinNumbers);
  }

  void open_class() {
    in_class_ = true;
    out_ += in_[pos_++];
    if (pos_ < in_.size() && in_[pos_] == '^') out_ += in_[pos_++];
    if (pos_ < in_.size() && in_[pos_] == ']') out_ += in_[pos_++];
  }

  Status class_character(char c) {
    const std::string_view rest = in_.substr(pos_);
    if (rest.starts_with("&&")) {
      return unsupported("an intersection (&&) of character classes is not supported");
    }
    if (c == '[' && rest.starts_with("[:")) {
      const size_t end = rest.find(":]");
      if (end == std::string_view::npos) return invalid_input("expected :] after [:");
      out_ += rest.substr(0, end + 2);
      pos_ += end + 2;
      return {};
    }
    if (c == '[') return unsupported("a character class inside another is not supported");
    if (c == ']') in_class_ = false;
    out_ += c;
    ++pos_;
    return {};
  }

  // Oniguruma's option m makes the dot match line ends, which PCRE2 calls s; its ^ and $ always
  // match at line ends.
  void group() {
    out_ += in_[pos_++];
    if (pos_ >= in_.size() || in_[pos_] != '?') return;
    out_ += in_[pos_++];
    size_t end = pos_;
    while (end < in_.size() && std::string_view("imx-").find(in_[end]) != std::string_view::npos)
      ++end;
    if (end == in_.size() || (in_[end] != ':' && in_[end] != ')')) return;
    for (; pos_ < end; ++pos_) out_ += in_[pos_] == 'm' ? 's' : in_[pos_];
  }

  std::string_view in_;
  std::string out_;
  size_t pos_ = 0;
  bool in_class_ = false;
};

template <auto Free>
struct Freed {
  template <typename T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};

template <typename T>
T* checked(T* pointer) {
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}

std::string error_text(int code) {
  PCRE2_UCHAR buffer[256];
  const int length = pcre2_get_error_message(code, buffer, sizeof buffer);
  return length > 0 ? std::string(reinterpret_cast<char*>(buffer), static_cast<size_t>(length))
                    : fmt::format("error {}", code);
}

}  // namespace

struct MatchState::Impl {
  std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>> data{
      checked(pcre2_match_data_create(1, nullptr))};
  std::unique_ptr<pcre2_jit_stack, Freed<pcre2_jit_stack_free>> stack{
      checked(pcre2_jit_stack_create(32768, kJitStackBytes, nullptr))};
  std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>> context{
      checked(pcre2_match_context_create(nullptr))};
};

MatchState::MatchState() : impl_(std::make_unique<Impl>()) {
  pcre2_set_match_limit(impl_->context.get(), Regex::kMatchLimit);
  pcre2_set_depth_limit(impl_->context.get(), Regex::kMatchLimit);
  pcre2_set_heap_limit(impl_->context.get(), kHeapLimitKib);
  pcre2_jit_stack_assign(impl_->context.get(), nullptr, impl_->stack.get());
}
MatchState::~MatchState() = default;
MatchState::MatchState(MatchState&&) noexcept = default;
MatchState& MatchState::operator=(MatchState&&) noexcept = default;

struct Regex::Impl {
  std::unique_ptr<pcre2_code, Freed<pcre2_code_free>> code;
  std::string pattern;
};

Regex::Regex(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

Result<Regex> Regex::compile(std::string_view pattern) {
  if (pattern.size() > kPatternLimit) {
    return invalid_input(fmt::format("expected a pattern of at most {} bytes, found {}",
                                     kPatternLimit, pattern.size()));
  }
  TESSERA_ASSIGN_OR_RETURN(const std::string translated, Translator(pattern).translate());
  int code = 0;
  PCRE2_SIZE offset = 0;
  const uint32_t options =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_UTF_CHECK;
  auto impl = std::make_unique<Impl>();
  impl->pattern = pattern.substr(0, 80);
  impl->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                 options, &code, &offset, nullptr));
  if (impl->code == nullptr) {
    return invalid_input(fmt::format("expected a regular expression, found \"{}\": {}",
                                     impl->pattern, error_text(code)));
  }
  // Without JIT (a kernel that forbids it, say) the interpreter runs the same pattern.
  (void)pcre2_jit_compile(impl->code.get(), PCRE2_JIT_COMPLETE);
  return Regex(std::move(impl));
}

Result<Regex> Regex::literal(std::string_view text) {
  std::string quoted;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain =
        byte >= 0x80 || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
    quoted += plain                      ? std::string(1, c)
              : byte < 32 || byte == ' ' ? fmt::format("\\x{{{:X}}}", byte)
                                         : fmt::format("\\{}", c);
  }
  return compile(quoted);
}

Result<std::optional<Span>> Regex::find(std::string_view text, size_t from,
                                        MatchState& state) const {
  MatchState::Impl& match = *state.impl_;
  const int found =
      pcre2_match(impl_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                  PCRE2_NO_UTF_CHECK, match.data.get(), match.context.get());
  if (found == PCRE2_ERROR_NOMATCH) return std::optional<Span>();
  if (found < 0) {
    return invalid_input(
        fmt::format("the pattern \"{}\" cannot be matched at byte {} of the text: {}",
                    impl_->pattern, from, error_text(found)));
  }
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match.data.get());
  // \K in a lookahead may set the start past the end.
  const auto end = static_cast<uint32_t>(std::max(ends[1], from));
  const auto begin = static_cast<uint32_t>(std::min<size_t>(std::max(ends[0], from), end));
  return std::optional<Span>(Span{begin, end});
}

size_t character_length(std::string_view text, size_t pos) {
  size_t end = pos + 1;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
  return end - pos;
}

}  // namespace tessera::tokenizer
