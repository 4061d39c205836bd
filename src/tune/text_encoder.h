#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/architecture.h"
#include "tessera/tokenizer.h"
#include "tune/records.h"

namespace tessera::training {

// Texts as the model reads them.
class TextEncoder {
 public:
  // How many texts to encode at a time: what lies in memory beside the examples.
  static constexpr size_t kAtATime = 1024;

  // max_tokens: of a sequence, special tokens included. The architecture must live as long. An
  // error where nothing of a text fits beside the special tokens. goes_on is asked before texts are
  // encoded, which is kCancelled where it says no; empty: it never does.
  static Result<TextEncoder> make(std::shared_ptr<const Tokenizer> tokenizer,
                                  const Architecture& architecture, int32_t max_tokens,
                                  int32_t threads, std::function<bool()> goes_on = {});

  // Records' texts and pairs, cut to max_tokens; errors name the place. At most kAtATime records.
  Result<std::vector<Encoding>> encode(std::span<const Record> records, Origins origins) const;
  // Only the texts, or only the pairs, of any length.
  Result<std::vector<Encoding>> encode_texts(std::span<const Record> records,
                                             SpecialTokens special) const;
  Result<std::vector<Encoding>> encode_pairs(std::span<const Record> records,
                                             SpecialTokens special) const;

  // What the model has no types for loses them. An error at `place` for what it cannot read.
  Result<TokenSequence> to_sequence(Encoding& encoding, const std::string& place) const;
  // The ids of what the model ends a text with: of its end token or, where it has none, of a line
  // feed.
  Result<std::vector<int32_t>> end_of_text() const;

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const Architecture& architecture() const { return *architecture_; }
  int32_t max_tokens() const { return max_tokens_; }

 private:
  TextEncoder() = default;
  Result<std::vector<Encoding>> encode_all(std::span<const Record> records,
                                           const std::vector<TextPair>& texts,
                                           const EncodeOptions& options) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  const Architecture* architecture_ = nullptr;
  int32_t max_tokens_ = 0;
  int32_t threads_ = 0;
  std::function<bool()> goes_on_;
};

}  // namespace tessera::training
