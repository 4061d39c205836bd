#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tokenizer/json_value.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary.h"
#include "tokenizer/word_cache.h"

// The steps of a tokenizer, each made from its part of tokenizer.json: text -> normalizers ->
// pre-tokenizers -> model -> template, and back through the decoders. All are immutable and shared
// by threads; what a call needs to write lies in Segment and Scratch.
namespace tessera::tokenizer {

// Text never grows past this, whatever a normalizer does to it.
inline constexpr size_t kTextLimit = size_t{1} << 28;
Status check_text_size(size_t bytes);

// The text between two added tokens on its way to the model.
struct Segment {
  std::string text;
  std::vector<Span> pieces;  // in order, none empty; bytes outside them are dropped
  bool at_origin = true;     // the first character stems from the first one of the input
  // By byte of the text: the character of the input that it stands for. Empty where nobody asked.
  std::vector<Span> sources;
};

// Where a stretch of such bytes comes from.
inline Span joined(const std::vector<Span>& sources, size_t begin, size_t end) {
  return {sources[begin].begin, sources[end - 1].end};
}

// The tokens of a text and, where asked for, the bytes that each stands for: first of the piece at
// hand, in the end of the input.
struct Tokens {
  std::vector<int32_t> ids;
  std::vector<Span> spans;
  bool has_spans = false;

  void resize(size_t size) {
    ids.resize(size);
    if (has_spans) spans.resize(size);
  }
  void push(int32_t id, Span span) {
    ids.push_back(id);
    if (has_spans) spans.push_back(span);
  }
};

inline Tokens slice(const Tokens& tokens, Span span) {
  const auto part = [span](const auto& items) {
    return std::vector(items.begin() + span.begin, items.begin() + span.end);
  };
  return {part(tokens.ids), tokens.has_spans ? part(tokens.spans) : std::vector<Span>(),
          tokens.has_spans};
}

// The best way to the end of a beginning of a piece: its last token.
struct PathNode {
  double score = 0;
  uint32_t begin = 0;
  int32_t id = kNoToken;
};

// What one call at a time writes to; kept between calls.
struct Scratch {
  MatchState match;
  WordCache cache;
  Segment segment;
  Segment normalized;
  std::string text;
  std::vector<Span> sources;
  std::vector<Span> pieces;
  std::vector<NormalCharacter> characters;
  std::vector<int32_t> symbols;
  std::vector<int32_t> first_symbols;   // before any merge
  std::vector<uint32_t> first_lengths;  // their bytes of the piece
  std::vector<uint64_t> queue;
  std::vector<Span> links;
  std::vector<PathNode> path;
  Tokens first;
  Tokens second;
};

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Changes segment.text; the pieces do not exist yet.
  virtual Status apply(Segment& segment, Scratch& scratch) const = 0;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual Status apply(Segment& segment, Scratch& scratch) const = 0;
};

class Model {
 public:
  explicit Model(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  virtual ~Model() = default;
  // Appends the tokens of one piece (not empty), their spans being of the piece.
  virtual Status tokenize(std::string_view piece, Scratch& scratch, Tokens& tokens) const = 0;
  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  Vocabulary vocabulary_;
};

class Decoder {
 public:
  virtual ~Decoder() = default;
  // Changes the tokens; joined in the end they are the text.
  virtual Status apply(std::vector<std::string>& tokens, Scratch& scratch) const = 0;
};

// Byte-level vocabularies spell the 256 bytes as printable characters. When such a pre-tokenizer
// stands last before a BPE model, the model takes the bytes as they are and the spelling is left
// out.
enum class ByteSpelling { kCharacters, kRawBytes };

// Each appends the steps of one JSON value, a null (none), a single one or a Sequence, in order.
Status make_normalizers(const JsonValue& json, std::vector<std::unique_ptr<Normalizer>>& steps);
Result<ByteSpelling> make_pre_tokenizers(const JsonValue& json, ByteSpelling allowed,
                                         std::vector<std::unique_ptr<PreTokenizer>>& steps);
Status make_decoders(const JsonValue& json, std::vector<std::unique_ptr<Decoder>>& steps);

// The type of the model, also of files that leave it out.
Result<std::string> model_type(const JsonValue& json);
Result<std::unique_ptr<Model>> make_model(const JsonValue& json, ByteSpelling spelling);
Result<std::unique_ptr<Model>> make_bpe(const JsonValue& json, ByteSpelling spelling);
Result<std::unique_ptr<Model>> make_word_piece(const JsonValue& json);
Result<std::unique_ptr<Model>> make_unigram(const JsonValue& json);

// Calls visit for each leaf of nested Sequences, whose members stand under members_key.
Status each_step(const JsonValue& json, std::string_view members_key,
                 const std::function<Status(std::string_view type, const JsonValue&)>& visit);
Status unknown_type(const JsonValue& json, std::string_view kind, std::string_view type);

// The "pattern" of Replace and Split: {"String": text} or {"Regex": pattern}.
Result<Regex> make_pattern(const JsonValue& json);

// The text of byte, and the byte of a character (-1 when it spells none).
std::string_view byte_spelling(uint8_t byte);
int byte_of_spelling(char32_t character);

}  // namespace tessera::tokenizer
