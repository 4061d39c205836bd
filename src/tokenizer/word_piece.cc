#include <fmt/format.h>

#include <algorithm>

#include "tokenizer/components.h"
#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

// The longest token that the word begins with, then the longest that the rest begins with, and so
// on; the tokens of a rest carry a prefix. A word that cannot be covered is one unknown token
// (Devlin et al. 2019).
class WordPiece final : public Model {
 public:
  WordPiece(Vocabulary vocabulary, std::string unk_token, std::string prefix, size_t max_characters)
      : Model(std::move(vocabulary)),
        unk_token_(std::move(unk_token)),
        prefix_(std::move(prefix)),
        max_characters_(max_characters) {}

  Status tokenize(std::string_view piece, Scratch& scratch, Tokens& tokens) const override {
    const size_t before = tokens.ids.size();
    if (count_characters(piece) > max_characters_) return unknown(before, piece.size(), tokens);
    // The bytes before a rest have been read, so its prefix can be written over them.
    std::string& buffer = scratch.text;
    buffer.assign(prefix_).append(piece);
    const size_t longest = vocabulary().longest_token_bytes();
    for (size_t begin = prefix_.size(); begin < buffer.size();) {
      size_t key_begin = begin;
      if (begin > prefix_.size()) {
        key_begin = begin - prefix_.size();
        std::copy(prefix_.begin(), prefix_.end(), buffer.begin() + key_begin);
      }
      const std::string_view rest = std::string_view(buffer).substr(key_begin);
      size_t end = std::min(rest.size(), longest);
      while (end < rest.size() && end > 0 && is_continuation(rest[end])) --end;
      int32_t id = kNoToken;
      for (; end > begin - key_begin; end = previous_character(rest, end)) {
        id = vocabulary().find(rest.substr(0, end));
        if (id != kNoToken) break;
      }
      if (id == kNoToken) return unknown(before, piece.size(), tokens);
      const size_t next = key_begin + end;
      tokens.push(id, {static_cast<uint32_t>(begin - prefix_.size()),
                       static_cast<uint32_t>(next - prefix_.size())});
      begin = next;
    }
    return {};
  }

 private:
  // The tokens from the place `before` on are those of the piece.
  Status unknown(size_t before, size_t piece_size, Tokens& tokens) const {
    const int32_t id = vocabulary().find(unk_token_);
    if (id == kNoToken) {
      return invalid_input(fmt::format(
          "expected the unknown token \"{}\" in the vocabulary, found none", unk_token_));
    }
    tokens.resize(before);
    tokens.push(id, {0, static_cast<uint32_t>(piece_size)});
    return {};
  }

  std::string unk_token_;
  std::string prefix_;
  size_t max_characters_;
};

}  // namespace

Result<std::unique_ptr<Model>> make_word_piece(const JsonValue& json) {
  std::string unk_token = "[UNK]";
  std::string prefix = "##";
  int64_t max_characters = 100;
  TESSERA_RETURN_IF_ERROR(json.read("unk_token", unk_token));
  TESSERA_RETURN_IF_ERROR(json.read("continuing_subword_prefix", prefix));
  TESSERA_RETURN_IF_ERROR(json.read("max_input_chars_per_word", max_characters, INT32_MAX));
  TESSERA_ASSIGN_OR_RETURN(Vocabulary vocabulary, Vocabulary::from_json(json["vocab"]));
  return std::unique_ptr<Model>(std::make_unique<WordPiece>(std::move(vocabulary),
                                                            std::move(unk_token), std::move(prefix),
                                                            static_cast<size_t>(max_characters)));
}

}  // namespace tessera::tokenizer
