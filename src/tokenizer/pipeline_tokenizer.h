#pragma once

#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "tessera/tokenizer.h"
#include "tokenizer/pipeline.h"
#include "tokenizer/scratch_pool.h"

namespace tessera::tokenizer {

// An error on one line and of bounded length, whatever it quotes from a file or a text: control
// characters are escaped.
Status one_sentence(const Status& error);

// Runs a function, whose errors become sentences, and turns what it throws into a Status.
template <typename Function>
auto guarded(const std::string& source, const Function& function) -> decltype(function()) {
  try {
    auto result = function();
    if (!result.ok()) return one_sentence(result.status());
    return result;
  } catch (const std::bad_alloc&) {
    return out_of_memory(source + ": out of memory in the tokenizer");
  } catch (const std::exception& error) {
    return invalid_input(source + ": " + error.what());
  }
}

class PipelineTokenizer final : public Tokenizer {
 public:
  explicit PipelineTokenizer(Pipeline pipeline) : pipeline_(std::move(pipeline)) {}
  static Result<std::shared_ptr<const Tokenizer>> make(Result<Pipeline> pipeline,
                                                       std::string source);

  Result<Encoding> encode(const TextPair& text, const EncodeOptions& options) const override;
  Result<std::vector<Encoding>> encode_all(std::span<const TextPair> texts,
                                           const EncodeOptions& options,
                                           int threads) const override;
  Result<std::vector<Encoding>> encode_windows(const TextPair& pair, size_t max_tokens,
                                               size_t overlap_tokens) const override;
  Result<std::string> decode(const std::vector<int32_t>& ids, DecodeSpecial special) const override;
  TruncationSide truncation_side() const override { return pipeline_.truncation_side; }
  int32_t vocabulary_size() const override { return pipeline_.vocabulary_size(); }
  std::optional<int32_t> id_of(std::string_view token) const override;
  std::string token_of(int32_t id) const override;
  std::optional<int32_t> special_id(TokenRole role) const override;

 private:
  Result<Encoding> encode_with(const TextPair& text, const EncodeOptions& options,
                               Scratch& scratch) const;
  Result<std::vector<Encoding>> windows_with(const TextPair& pair, size_t max_tokens,
                                             size_t overlap_tokens, Scratch& scratch) const;
  // The tokens of both texts, into scratch.first and scratch.second.
  Status read_texts(const TextPair& text, Origins origins, Scratch& scratch) const;
  // Appends the tokens of one text, which messages call by its name.
  Status read_text(std::string_view text, std::string_view name, Scratch& scratch,
                   Tokens& tokens) const;
  // From scratch.segment, the text between the added tokens that stand in it as given.
  Status read_segment(Scratch& scratch, Tokens& tokens) const;
  // From normalised text without added tokens.
  Status read_words(Segment& segment, Scratch& scratch, Tokens& tokens) const;
  Status read_with_sources(const Segment& segment, Span piece, Scratch& scratch,
                           Tokens& tokens) const;
  bool is_special(int32_t id) const;
  Result<std::string> decode_ids(const std::vector<int32_t>& ids, DecodeSpecial special) const;

  Pipeline pipeline_;
  mutable ScratchPool scratch_;
};

}  // namespace tessera::tokenizer
