#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/export.h"
#include "tessera/names.h"
#include "tessera/status.h"

namespace tessera {

enum class SpecialTokens { kAdd, kOmit };
constexpr auto names_of(SpecialTokens) { return enum_names("add", "omit"); }
enum class DecodeSpecial { kKeep, kSkip };
constexpr auto names_of(DecodeSpecial) { return enum_names("keep", "skip"); }
enum class Origins { kOmit, kGive };
constexpr auto names_of(Origins) { return enum_names("omit", "give"); }

// What a special token is for, as its files call it: "cls_token" and so on.
enum class TokenRole { kBos, kEos, kCls, kSep, kMask, kPad, kUnk };
constexpr auto names_of(TokenRole) {
  return enum_names("bos", "eos", "cls", "sep", "mask", "pad", "unk");
}

// Which texts lose tokens: the longer one until both are as long, or one alone, which keeps at
// least one token.
enum class TruncationStrategy { kLongestFirst, kOnlyFirst, kOnlySecond };
constexpr auto names_of(TruncationStrategy) {
  return enum_names("longest_first", "only_first", "only_second");
}
// The end that is cut off.
enum class TruncationSide { kRight, kLeft };
constexpr auto names_of(TruncationSide) { return enum_names("right", "left"); }

struct Truncation {
  size_t max_tokens = 0;  // special tokens included
  TruncationStrategy strategy = TruncationStrategy::kLongestFirst;
  TruncationSide side = TruncationSide::kRight;
};

struct EncodeOptions {
  SpecialTokens special = SpecialTokens::kAdd;
  // None: the whole text, whatever the files say about truncation and padding.
  std::optional<Truncation> truncation = std::nullopt;
  Origins origins = Origins::kOmit;  // fill Encoding::origins
};

// Where a token comes from: bytes [begin, end) of the text as it was given, 0 the first or only one
// and 1 the second; a special token that was added has text -1 and an empty range. Ranges follow
// the reference: tokens of one character share its range, and normalisation is undone.
struct TokenOrigin {
  int32_t text = -1;
  uint32_t begin = 0;
  uint32_t end = 0;
  friend bool operator==(const TokenOrigin&, const TokenOrigin&) = default;
};

struct Encoding {
  std::vector<int32_t> ids = {};
  std::vector<int32_t> type_ids = {};
  std::vector<TokenOrigin> origins = {};  // one a token, where asked for
  bool truncated = false;                 // tokens were cut off
};

// A text, or two that belong together. The bytes belong to the caller.
struct TextPair {
  std::string_view first = {};
  std::optional<std::string_view> second = std::nullopt;
};

// Text to ids and back, as the reference does it from the same files: the `tokenizers` library for
// a tokenizer.json, SentencePiece for a tokenizer.model. Immutable and safe to share between
// threads.
class TESSERA_API Tokenizer {
 public:
  // Reads DIRECTORY/tokenizer.json, else a SentencePiece model (tokenizer.model, spiece.model,
  // sentencepiece.bpe.model), else vocab.json with merges.txt (GPT-2, RoBERTa, Qwen2), else
  // vocab.txt (BERT). The files beside it say which special tokens there are; beside a
  // tokenizer.json they add to it and overrule it as in transformers. kNotFound when the directory
  // has no tokenizer.
  static Result<std::shared_ptr<const Tokenizer>> open(const std::string& directory);
  static Result<std::shared_ptr<const Tokenizer>> from_json(std::string_view json,
                                                            std::string source);
  // A tokenizer.model of SentencePiece (Unigram or BPE) by itself: text to ids and back as the
  // sentencepiece library does it, without special tokens around.
  static Result<std::shared_ptr<const Tokenizer>> from_sentence_piece(std::string_view bytes,
                                                                      std::string source);
  virtual ~Tokenizer() = default;

  // Text that is not UTF-8 is an error that names the byte offset; so is a truncation that the
  // special tokens alone exceed, or that would lose a text that must keep a token.
  virtual Result<Encoding> encode(const TextPair& text,
                                  const EncodeOptions& options = {}) const = 0;
  // Many texts on so many threads (< 1: every CPU this process may use), in their order. An error
  // names the text by its index.
  virtual Result<std::vector<Encoding>> encode_all(std::span<const TextPair> texts,
                                                   const EncodeOptions& options,
                                                   int threads) const = 0;
  // A pair whose second text is too long for one sequence, as overlapping windows over it: each has
  // the whole first text and at most max_tokens tokens, special ones included, and repeats the last
  // `overlap_tokens` tokens of the second text of the window before it. At least one window; an
  // error where the first text leaves no room for more than the overlap. Origins are always given.
  virtual Result<std::vector<Encoding>> encode_windows(const TextPair& pair, size_t max_tokens,
                                                       size_t overlap_tokens) const = 0;
  // Ids outside the vocabulary are errors. The text of byte tokens that form no character is
  // U+FFFD.
  virtual Result<std::string> decode(const std::vector<int32_t>& ids,
                                     DecodeSpecial special) const = 0;
  // The end at which the files say that texts are cut.
  virtual TruncationSide truncation_side() const = 0;
  virtual int32_t vocabulary_size() const = 0;  // added tokens included: the largest id + 1
  virtual std::optional<int32_t> id_of(std::string_view token) const = 0;
  virtual std::string token_of(int32_t id) const = 0;  // empty for an id that has none
  // The special token of a role; none where the files name none.
  virtual std::optional<int32_t> special_id(TokenRole role) const = 0;
  // The token that stands for a hidden one in a masked language model.
  std::optional<int32_t> mask_id() const { return special_id(TokenRole::kMask); }
};

}  // namespace tessera
