#include "tune/text_encoder.h"

#include <fmt/format.h>

namespace tessera::training {

Result<TextEncoder> TextEncoder::make(std::shared_ptr<const Tokenizer> tokenizer,
                                      const Architecture& architecture, int32_t max_tokens,
                                      int32_t threads, std::function<bool()> goes_on) {
  TextEncoder made;
  made.goes_on_ = std::move(goes_on);
  made.tokenizer_ = std::move(tokenizer);
  made.architecture_ = &architecture;
  made.max_tokens_ = max_tokens;
  made.threads_ = threads;
  TESSERA_ASSIGN_OR_RETURN(const Encoding nothing, made.tokenizer_->encode({""}));
  if (nothing.ids.size() < static_cast<size_t>(max_tokens)) return made;
  return invalid_input(
      fmt::format("max_tokens: expected more than the {} special tokens around a text, found {}",
                  nothing.ids.size(), max_tokens));
}

Result<std::vector<Encoding>> TextEncoder::encode_all(std::span<const Record> records,
                                                      const std::vector<TextPair>& texts,
                                                      const EncodeOptions& options) const {
  if (goes_on_ && !goes_on_())
    return Status(StatusCode::kCancelled, "the training was stopped while its data was read");
  auto encodings = tokenizer_->encode_all(texts, options, threads_);
  if (encodings.ok()) return encodings;
  // It counts the texts; the record is found by the text that fails alone too.
  for (size_t i = 0; i < texts.size(); ++i) {
    const Status alone = tokenizer_->encode(texts[i], options).status();
    if (!alone.ok()) return Status(alone.code(), records[i].place + ": " + alone.message());
  }
  return encodings.status();
}

Result<std::vector<Encoding>> TextEncoder::encode(std::span<const Record> records,
                                                  Origins origins) const {
  EncodeOptions options{.origins = origins};
  options.truncation = Truncation{.max_tokens = static_cast<size_t>(max_tokens_),
                                  .side = tokenizer_->truncation_side()};
  std::vector<TextPair> texts;
  for (const Record& record : records) {
    texts.push_back({record.text});
    if (record.pair) texts.back().second = *record.pair;
  }
  return encode_all(records, texts, options);
}

Result<std::vector<Encoding>> TextEncoder::encode_texts(std::span<const Record> records,
                                                        SpecialTokens special) const {
  std::vector<TextPair> texts;
  for (const Record& record : records) texts.push_back({record.text});
  return encode_all(records, texts, {.special = special});
}

Result<std::vector<Encoding>> TextEncoder::encode_pairs(std::span<const Record> records,
                                                        SpecialTokens special) const {
  std::vector<TextPair> texts;
  for (const Record& record : records) texts.push_back({*record.pair});
  return encode_all(records, texts, {.special = special});
}

Result<TokenSequence> TextEncoder::to_sequence(Encoding& encoding, const std::string& place) const {
  TokenSequence tokens{std::move(encoding.ids), std::move(encoding.type_ids)};
  if (architecture_->type_vocabulary_size <= 1) tokens.type_ids.clear();
  TESSERA_RETURN_IF_ERROR(
      check_sequence(*architecture_, tokens, place, tokenizer_->vocabulary_size()));
  return tokens;
}

Result<std::vector<int32_t>> TextEncoder::end_of_text() const {
  if (const std::optional<int32_t> end = tokenizer_->special_id(TokenRole::kEos))
    return std::vector<int32_t>{*end};
  if (!architecture_->end_ids.empty()) return std::vector<int32_t>{architecture_->end_ids.front()};
  TESSERA_ASSIGN_OR_RETURN(const Encoding line,
                           tokenizer_->encode({"\n"}, {.special = SpecialTokens::kOmit}));
  return line.ids;
}

}  // namespace tessera::training
