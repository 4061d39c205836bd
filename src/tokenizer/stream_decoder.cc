#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace tessera {
namespace {

// The window is decoded anew for every token, so it starts over with its last tokens now and then.
constexpr size_t kWindowTokens = 48;
constexpr size_t kContextTokens = 6;

// A token that stands for one byte, <0x00> to <0xFF>. What a run of them means is known at its end
// only: an ill-formed byte spoils the whole run.
bool is_byte_token(const std::string& token) {
  return token.size() == 6 && token.starts_with("<0x") && token.back() == '>';
}

// How much of the text is certain: an unfinished character shows as U+FFFD at the end.
size_t certain_bytes(const std::string& text) {
  const bool unfinished = text.ends_with(tokenizer::kReplacementUtf8);
  return text.size() - (unfinished ? tokenizer::kReplacementUtf8.size() : 0);
}

// Text may change where it was not certain after all; never cut a character then.
size_t character_boundary(const std::string& text, size_t pos) {
  while (pos < text.size() && tokenizer::is_continuation(text[pos])) ++pos;
  return std::min(pos, text.size());
}

}  // namespace

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, DecodeSpecial special)
    : tokenizer_(std::move(tokenizer)), special_(special) {}

// Whether a run of bytes cannot go on across this token; it does across a skipped one.
bool StreamDecoder::ends_run(int32_t id) const {
  if (is_byte_token(tokenizer_->token_of(id))) return false;
  const Result<std::string> text = tokenizer_->decode({id}, special_);
  return text.ok() && !text->empty();
}

// Shortens the window to the last tokens. Their text must not depend on the ones before them: they
// begin neither inside a run of bytes nor inside a character, and show something, so that a space
// which a text may lose at its beginning is not lost from what follows.
void StreamDecoder::shorten_window() {
  for (size_t kept = kContextTokens; kept < ids_.size(); kept *= 2) {
    const size_t begin = ids_.size() - kept;
    if (!ends_run(ids_[begin])) continue;
    const std::vector<int32_t> context(ids_.begin() + static_cast<std::ptrdiff_t>(begin),
                                       ids_.end());
    const Result<std::string> text = tokenizer_->decode(context, special_);
    if (!text.ok() || text->empty() || text->starts_with(tokenizer::kReplacementUtf8)) continue;
    ids_ = context;
    emitted_bytes_ = text->size();
    return;
  }
}

void StreamDecoder::prime(const std::vector<int32_t>& ids) {
  ids_ = ids;
  emitted_bytes_ = 0;
  in_byte_run_ = false;
  const Result<std::string> text = tokenizer_->decode(ids_, special_);
  if (!text.ok()) {
    ids_.clear();
    return;
  }
  emitted_bytes_ = certain_bytes(*text);
  if (emitted_bytes_ == text->size()) shorten_window();
}

Result<std::string> StreamDecoder::next(int32_t id) {
  ids_.push_back(id);
  Result<std::string> text = tokenizer_->decode(ids_, special_);
  if (!text.ok()) {
    ids_.pop_back();
    return text.status();
  }
  if (is_byte_token(tokenizer_->token_of(id))) {
    in_byte_run_ = true;
  } else if (in_byte_run_) {
    in_byte_run_ = !ends_run(id);
  }
  if (in_byte_run_) return std::string();
  const size_t end = certain_bytes(*text);
  const size_t begin = character_boundary(*text, emitted_bytes_);
  if (end <= begin) return std::string();
  std::string certain = text->substr(begin, end - begin);
  emitted_bytes_ = end;
  if (end == text->size() && ids_.size() > kWindowTokens) shorten_window();
  return certain;
}

Result<std::string> StreamDecoder::finish() {
  Result<std::string> text = tokenizer_->decode(ids_, special_);
  if (!text.ok()) return text.status();
  const size_t begin = character_boundary(*text, emitted_bytes_);
  emitted_bytes_ = text->size();
  return text->substr(begin);
}

}  // namespace tessera
