#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace tessera {

enum class SpecialTokens { kAdd, kOmit };
enum class DecodeSpecial { kKeep, kSkip };

// Which texts lose tokens: the longer one until both are as long, or one alone, which keeps at
// least one token.
enum class TruncationStrategy { kLongestFirst, kOnlyFirst, kOnlySecond };
// The end that is cut off.
enum class TruncationSide { kRight, kLeft };

struct Truncation {
  size_t max_tokens = 0;  // special tokens included
  TruncationStrategy strategy = TruncationStrategy::kLongestFirst;
  TruncationSide side = TruncationSide::kRight;
};

struct Encoding {
  std::vector<int32_t> ids;
  std::vector<int32_t> type_ids;
};

// Text to ids and back, as the reference does it from the same files: the `tokenizers` library for
// a tokenizer.json, SentencePiece for a tokenizer.model. Immutable and safe to share between
// threads.
class Tokenizer {
 public:
  // Reads DIRECTORY/tokenizer.json, else tokenizer.model, else vocab.json with merges.txt (GPT-2,
  // RoBERTa, Qwen2), else vocab.txt (BERT); without tokenizer.json the files beside it say which
  // special tokens there are. kNotFound when the directory has no tokenizer.
  static Result<std::shared_ptr<const Tokenizer>> open(const std::string& directory);
  static Result<std::shared_ptr<const Tokenizer>> from_json(std::string_view json,
                                                            std::string source);
  // A tokenizer.model of SentencePiece (Unigram or BPE) by itself: text to ids and back as the
  // sentencepiece library does it, without special tokens around.
  static Result<std::shared_ptr<const Tokenizer>> from_sentence_piece(std::string_view bytes,
                                                                      std::string source);
  virtual ~Tokenizer() = default;

  // Text that is not UTF-8 is an error that names the byte offset.
  virtual Result<Encoding> encode(std::string_view text, SpecialTokens special) const = 0;
  virtual Result<Encoding> encode_pair(std::string_view first, std::string_view second,
                                       SpecialTokens special) const = 0;
  // The same, shortened to fit; what a file says about truncation and padding has no effect. An
  // error where the special tokens alone do not fit, or a text to truncate would be lost.
  virtual Result<Encoding> encode(std::string_view text, SpecialTokens special,
                                  const Truncation& truncation) const = 0;
  virtual Result<Encoding> encode_pair(std::string_view first, std::string_view second,
                                       SpecialTokens special,
                                       const Truncation& truncation) const = 0;
  // Ids outside the vocabulary are errors. The text of byte tokens that form no character is
  // U+FFFD.
  virtual Result<std::string> decode(const std::vector<int32_t>& ids,
                                     DecodeSpecial special) const = 0;
  virtual int32_t vocabulary_size() const = 0;  // added tokens included: the largest id + 1
  virtual std::optional<int32_t> id_of(std::string_view token) const = 0;
  virtual std::string token_of(int32_t id) const = 0;  // empty for an id that has none
};

// Turns ids that arrive one by one into text, never half a character: next() returns what became
// certain, finish() the rest.
class StreamDecoder {
 public:
  StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, DecodeSpecial special);
  // Tokens that come before the streamed ones and shape their text (leading spaces); they are not
  // emitted.
  void prime(const std::vector<int32_t>& ids);
  Result<std::string> next(int32_t id);
  Result<std::string> finish();

 private:
  void shorten_window();
  bool ends_run(int32_t id) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  DecodeSpecial special_;
  std::vector<int32_t> ids_;  // the window: the tokens that still shape what comes
  size_t emitted_bytes_ = 0;  // of the window's text
  bool in_byte_run_ = false;
};

}  // namespace tessera
