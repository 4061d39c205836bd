#include <fmt/format.h>

#include "tokenizer/components.h"
#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

using Tokens = std::vector<std::string>;

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  if (from.empty()) return;
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

// Spelled bytes back to text; a token with a character that spells no byte stands for its own
// bytes.
class ByteLevelDecoder final : public Decoder {
 public:
  Status apply(Tokens& tokens, Scratch&) const override {
    std::string bytes;
    for (const std::string& token : tokens) {
      const size_t size = bytes.size();
      for (size_t pos = 0; pos < token.size();) {
        const int byte = byte_of_spelling(next_character(token, pos));
        if (byte < 0) {
          bytes.resize(size);
          bytes += token;
          break;
        }
        bytes.push_back(static_cast<char>(byte));
      }
    }
    tokens.assign(1, {});
    append_lossy(bytes, tokens[0]);
    return {};
  }
};

class WordPieceDecoder final : public Decoder {
 public:
  static Result<std::unique_ptr<Decoder>> make(const JsonValue& json) {
    auto made = std::make_unique<WordPieceDecoder>();
    TESSERA_RETURN_IF_ERROR(json.read("prefix", made->prefix_));
    TESSERA_RETURN_IF_ERROR(json.read("cleanup", made->cleanup_));
    return std::unique_ptr<Decoder>(std::move(made));
  }

  Status apply(Tokens& tokens, Scratch&) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      std::string& token = tokens[i];
      if (i > 0) {
        if (token.starts_with(prefix_)) {
          token.erase(0, prefix_.size());
        } else {
          token.insert(token.begin(), ' ');
        }
      }
      if (cleanup_) clean_up(token);
    }
    return {};
  }

 private:
  static void clean_up(std::string& token) {
    static constexpr std::string_view kChanges[][2] = {
        {" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
        {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
        {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (const auto& change : kChanges) replace_all(token, change[0], change[1]);
  }

  std::string prefix_ = "##";
  bool cleanup_ = true;
};

// Tokens <0x00> to <0xFF> that follow one another to the text that their bytes are; each byte of a
// run that is not UTF-8 becomes U+FFFD.
class ByteFallbackDecoder final : public Decoder {
 public:
  Status apply(Tokens& tokens, Scratch&) const override {
    Tokens decoded;
    std::string run;
    const auto flush = [&] {
      if (run.empty()) return;
      if (find_invalid_utf8(run) == std::string_view::npos) {
        decoded.push_back(run);
      } else {
        decoded.insert(decoded.end(), run.size(), std::string(kReplacementUtf8));
      }
      run.clear();
    };
    for (std::string& token : tokens) {
      if (const int byte = byte_of(token); byte >= 0) {
        run.push_back(static_cast<char>(byte));
      } else {
        flush();
        decoded.push_back(std::move(token));
      }
    }
    flush();
    tokens.swap(decoded);
    return {};
  }

 private:
  static int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  }
  static int byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
    const int low = digit(token[4]);
    const int high = token[3] == '+' ? 0 : digit(token[3]);  // "+9" is a number to the reference
    return low < 0 || high < 0 ? -1 : 16 * high + low;
  }
};

class FuseDecoder final : public Decoder {
 public:
  Status apply(Tokens& tokens, Scratch&) const override {
    std::string joined;
    for (const std::string& token : tokens) joined += token;
    tokens.assign(1, std::move(joined));
    return {};
  }
};

class ReplaceDecoder final : public Decoder {
 public:
  ReplaceDecoder(Regex pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  static Result<std::unique_ptr<Decoder>> make(const JsonValue& json) {
    std::string content;
    TESSERA_RETURN_IF_ERROR(json.require("content", content));
    TESSERA_ASSIGN_OR_RETURN(Regex pattern, make_pattern(json["pattern"]));
    return std::unique_ptr<Decoder>(
        std::make_unique<ReplaceDecoder>(std::move(pattern), std::move(content)));
  }

  Status apply(Tokens& tokens, Scratch& scratch) const override {
    size_t total = 0;
    for (std::string& token : tokens) {
      std::string out;
      size_t done = 0;
      TESSERA_RETURN_IF_ERROR(pattern_.for_each_match(token, scratch.match, [&](Span match) {
        if (out.size() > kTextLimit || token.empty()) return;
        out.append(token, done, match.begin - done).append(content_);
        done = match.end;
      }));
      out.append(token, done);
      total += out.size();
      TESSERA_RETURN_IF_ERROR(check_text_size(total));
      token.swap(out);
    }
    return {};
  }

 private:
  Regex pattern_;
  std::string content_;
};

// Takes up to start times the content off the beginning of every token, and up to stop times off
// the end.
class StripDecoder final : public Decoder {
 public:
  static Result<std::unique_ptr<Decoder>> make(const JsonValue& json) {
    auto made = std::make_unique<StripDecoder>();
    TESSERA_RETURN_IF_ERROR(json.require("content", made->content_));
    if (made->content_.empty() || character_length(made->content_, 0) != made->content_.size()) {
      return json["content"].wrong("one character");
    }
    TESSERA_RETURN_IF_ERROR(json.read("start", made->start_, INT32_MAX));
    TESSERA_RETURN_IF_ERROR(json.read("stop", made->stop_, INT32_MAX));
    return std::unique_ptr<Decoder>(std::move(made));
  }

  Status apply(Tokens& tokens, Scratch&) const override {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (int64_t i = 0; i < start_ && rest.starts_with(content_); ++i) {
        rest.remove_prefix(content_.size());
      }
      for (int64_t i = 0; i < stop_ && rest.ends_with(content_); ++i) {
        rest.remove_suffix(content_.size());
      }
      if (rest.size() != token.size()) token = std::string(rest);
    }
    return {};
  }

 private:
  std::string content_;
  int64_t start_ = 0;
  int64_t stop_ = 0;
};

class MetaspaceDecoder final : public Decoder {
 public:
  static Result<std::unique_ptr<Decoder>> make(const JsonValue& json) {
    auto made = std::make_unique<MetaspaceDecoder>();
    TESSERA_RETURN_IF_ERROR(json.read("replacement", made->mark_));
    if (made->mark_.empty()) return json["replacement"].wrong("one character");
    bool add_prefix_space = true;
    TESSERA_RETURN_IF_ERROR(json.read("add_prefix_space", add_prefix_space));
    std::string scheme = add_prefix_space ? "always" : "never";
    TESSERA_RETURN_IF_ERROR(json.read("prepend_scheme", scheme));
    made->drops_first_ = scheme != "never";
    return std::unique_ptr<Decoder>(std::move(made));
  }

  Status apply(Tokens& tokens, Scratch&) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      replace_all(tokens[i], mark_, i == 0 && drops_first_ ? "" : " ");
    }
    return {};
  }

 private:
  std::string mark_ = "\xE2\x96\x81";
  bool drops_first_ = true;
};

class BpeDecoder final : public Decoder {
 public:
  explicit BpeDecoder(std::string suffix) : suffix_(std::move(suffix)) {}
  Status apply(Tokens& tokens, Scratch&) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      replace_all(tokens[i], suffix_, i + 1 == tokens.size() ? "" : " ");
    }
    return {};
  }

 private:
  std::string suffix_;
};

Result<std::unique_ptr<Decoder>> make_decoder(std::string_view type, const JsonValue& json) {
  if (type == "ByteLevel") return std::unique_ptr<Decoder>(std::make_unique<ByteLevelDecoder>());
  if (type == "WordPiece") return WordPieceDecoder::make(json);
  if (type == "ByteFallback") {
    return std::unique_ptr<Decoder>(std::make_unique<ByteFallbackDecoder>());
  }
  if (type == "Fuse") return std::unique_ptr<Decoder>(std::make_unique<FuseDecoder>());
  if (type == "Replace") return ReplaceDecoder::make(json);
  if (type == "Strip") return StripDecoder::make(json);
  if (type == "Metaspace") return MetaspaceDecoder::make(json);
  if (type == "BPEDecoder") {
    std::string suffix = "</w>";
    TESSERA_RETURN_IF_ERROR(json.read("suffix", suffix));
    return std::unique_ptr<Decoder>(std::make_unique<BpeDecoder>(std::move(suffix)));
  }
  return unknown_type(json, "decoder", type);
}

}  // namespace

Status make_decoders(const JsonValue& json, std::vector<std::unique_ptr<Decoder>>& steps) {
  return each_step(json, "decoders", [&](std::string_view type, const JsonValue& step) -> Status {
    TESSERA_ASSIGN_OR_RETURN(auto made, make_decoder(type, step));
    steps.push_back(std::move(made));
    return {};
  });
}

}  // namespace tessera::tokenizer
