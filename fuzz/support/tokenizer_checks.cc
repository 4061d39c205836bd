#include "support/tokenizer_checks.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace tessera::fuzz {
namespace {

using Ids = std::vector<int32_t>;

bool is_utf8_text(std::string_view text) {
  return find_invalid_utf8(text) == std::string_view::npos;
}

void check_refusal(const Status& status) {
  require(!status.message().empty() && status.message().find('\n') == std::string::npos);
}

bool is_character_start(std::string_view text, size_t at) {
  return at == text.size() || (static_cast<unsigned char>(text[at]) & 0xC0) != 0x80;
}

void check_origins(const Encoding& encoding, const TextPair& texts, Known known) {
  require(encoding.origins.size() == encoding.ids.size());
  TokenOrigin before;
  for (const TokenOrigin& origin : encoding.origins) {
    require(origin.text >= -1 && origin.text <= (texts.second ? 1 : 0));
    require(origin.begin <= origin.end);
    if (origin.text == -1) {
      require(origin.begin == origin.end);
      continue;
    }
    const std::string_view text = origin.text == 0 ? texts.first : *texts.second;
    require(origin.end <= text.size());
    require(is_character_start(text, origin.begin) && is_character_start(text, origin.end));
    if (known != Known::kNothing && before.text == origin.text) {
      require(before.begin <= origin.begin && before.end <= origin.end);
    }
    before = origin;
  }
}

void check_encoding(const Tokenizer& tokenizer, const Encoding& encoding) {
  require(encoding.type_ids.size() == encoding.ids.size());
  for (const int32_t id : encoding.ids) require(id >= 0 && id < tokenizer.vocabulary_size());
}

std::string streamed(const std::shared_ptr<const Tokenizer>& tokenizer, const Ids& ids) {
  StreamDecoder decoder(tokenizer, DecodeSpecial::kKeep);
  std::string text;
  for (const int32_t id : ids) {
    const auto piece = decoder.next(id);
    require(piece.ok() && is_utf8_text(*piece));
    text += *piece;
  }
  const auto rest = decoder.finish();
  require(rest.ok());
  return text + *rest;
}

void check_decoding(const std::shared_ptr<const Tokenizer>& tokenizer, const Ids& ids) {
  for (const DecodeSpecial special : {DecodeSpecial::kKeep, DecodeSpecial::kSkip}) {
    const auto decoded = tokenizer->decode(ids, special);
    if (decoded.ok()) {
      require(is_utf8_text(*decoded));
    } else {
      check_refusal(decoded.status());
    }
  }
}

// A beginning or an end of the whole, as long as is allowed.
void check_truncation(const Tokenizer& tokenizer, std::string_view text, const Ids& whole) {
  for (const size_t most : {size_t{0}, size_t{1}, whole.size() / 2, whole.size() + 1}) {
    for (const TruncationSide side : {TruncationSide::kRight, TruncationSide::kLeft}) {
      const auto cut =
          tokenizer.encode({text}, {.special = SpecialTokens::kOmit,
                                    .truncation = Truncation{.max_tokens = most, .side = side},
                                    .origins = Origins::kGive});
      if (!cut.ok()) {
        check_refusal(cut.status());
        continue;
      }
      const size_t size = std::min(most, whole.size());
      require(cut->ids.size() == size && cut->origins.size() == size);
      require(cut->truncated == (size < whole.size()));
      require(side == TruncationSide::kRight
                  ? std::equal(cut->ids.begin(), cut->ids.end(), whole.begin())
                  : std::equal(cut->ids.rbegin(), cut->ids.rend(), whole.rbegin()));
    }
  }
}

// What a window has of the second text.
Ids second_ids(const Encoding& window) {
  Ids ids;
  for (size_t i = 0; i < window.ids.size(); ++i) {
    if (window.origins[i].text == 1) ids.push_back(window.ids[i]);
  }
  return ids;
}

struct Window {
  size_t most = 0;
  size_t overlap = 0;
};

void check_windows(const Tokenizer& tokenizer, const TextPair& pair, const Window& size,
                   Known known) {
  const auto whole = tokenizer.encode(pair, {.origins = Origins::kGive});
  if (!whole.ok()) return check_refusal(whole.status());
  check_encoding(tokenizer, *whole);
  check_origins(*whole, pair, known);
  const auto windows = tokenizer.encode_windows(pair, size.most, size.overlap);
  if (!windows.ok()) return check_refusal(windows.status());
  require(!windows->empty());
  Ids joined;
  for (size_t i = 0; i < windows->size(); ++i) {
    const Encoding& window = (*windows)[i];
    require(window.ids.size() <= size.most);
    check_encoding(tokenizer, window);
    check_origins(window, pair, known);
    const Ids part = second_ids(window);
    const size_t repeated = i == 0 ? 0 : size.overlap;
    require(part.size() >= repeated && joined.size() >= repeated);
    require(std::equal(part.begin(), part.begin() + static_cast<std::ptrdiff_t>(repeated),
                       joined.end() - static_cast<std::ptrdiff_t>(repeated)));
    joined.insert(joined.end(), part.begin() + static_cast<std::ptrdiff_t>(repeated), part.end());
  }
  require(joined == second_ids(*whole));
}

void check_threads(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<TextPair> texts = {{text}, {text.substr(text.size())}, {text, text}};
  const auto together = tokenizer.encode_all(texts, {}, 2);
  if (!together.ok()) return check_refusal(together.status());
  require(together->size() == texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto alone = tokenizer.encode(texts[i]);
    require(alone.ok() && alone->ids == (*together)[i].ids &&
            alone->type_ids == (*together)[i].type_ids);
  }
}

}  // namespace

void check_text(const std::shared_ptr<const Tokenizer>& tokenizer, std::string_view text,
                Known known) {
  const auto bare =
      tokenizer->encode({text}, {.special = SpecialTokens::kOmit, .origins = Origins::kGive});
  if (!bare.ok()) {
    check_refusal(bare.status());
    require(known == Known::kNothing || !is_utf8_text(text));
    return;
  }
  require(is_utf8_text(text) && !bare->truncated);
  check_encoding(*tokenizer, *bare);
  check_origins(*bare, {text}, known);
  const auto with_special = tokenizer->encode({text});
  if (with_special.ok()) {
    require(with_special->ids.size() >= bare->ids.size());
    check_encoding(*tokenizer, *with_special);
    check_decoding(tokenizer, with_special->ids);
  }
  const auto decoded = tokenizer->decode(bare->ids, DecodeSpecial::kKeep);
  if (known == Known::kLossless) require(decoded.ok() && *decoded == text);
  if (known != Known::kNothing) require(decoded.ok() && streamed(tokenizer, bare->ids) == *decoded);
  check_truncation(*tokenizer, text, bare->ids);
  size_t middle = text.size() / 2;
  while (!is_character_start(text, middle)) --middle;
  check_windows(*tokenizer, {text.substr(0, std::min<size_t>(middle, 8)), text.substr(middle)},
                {.most = 8 + text.size() % 8, .overlap = text.size() % 5}, known);
  // Starting threads takes longer than all the rest.
  if (text.size() % 16 == 5) check_threads(*tokenizer, text);
}

void check_bytes(const std::shared_ptr<const Tokenizer>& tokenizer, std::string_view bytes,
                 Known known) {
  check_text(tokenizer, bytes, known);
  if (is_utf8_text(bytes)) return;
  std::string text;
  while (true) {
    const size_t bad = std::min(find_invalid_utf8(bytes), bytes.size());
    text += bytes.substr(0, bad);
    if (bad == bytes.size()) break;
    bytes.remove_prefix(bad + 1);
  }
  check_text(tokenizer, text, known);
}

void check_tokenizer(const Result<std::shared_ptr<const Tokenizer>>& made, std::string_view file) {
  if (!made.ok()) {
    require(!made.status().message().empty());
    return;
  }
  for (const std::string_view text :
       {std::string_view(), std::string_view("a"), std::string_view("  ab bc<s> it's 12 \xC3\xA9"),
        std::string_view("\xE2\x96\x81\xE4\xB8\xAD\r\n e\xCC\x81\xF0\x9F\x98\x80"),
        std::string_view("a\0b", 3), file.substr(0, 200)}) {
    check_text(*made, text, Known::kNothing);
  }
}

}  // namespace tessera::fuzz
