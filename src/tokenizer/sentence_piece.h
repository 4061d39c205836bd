#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/components.h"

// A tokenizer.model of SentencePiece (Kudo & Richardson 2018): a protobuf message ModelProto.
namespace tessera::tokenizer {

enum class PieceType { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct SentencePieceModel {
  enum class Algorithm { kUnigram = 1, kBpe = 2 };
  struct Piece {
    std::string_view text;  // in the file's bytes
    float score = 0;
    PieceType type = PieceType::kNormal;
    // Whether the piece may be found in a text.
    bool is_searched() const {
      return type == PieceType::kNormal || type == PieceType::kUserDefined;
    }
  };

  std::vector<Piece> pieces;  // by id
  Algorithm algorithm = Algorithm::kUnigram;
  int32_t unk_id = kNoToken;
  bool byte_fallback = false;
  bool space_is_suffix = false;
  std::string_view unk_surface = " \xE2\x81\x87 ";  // what the unknown token decodes to
  CharsMap map;
  bool add_dummy_prefix = true;
  bool remove_extra_spaces = true;
  bool escape_spaces = true;

  // Reads and checks: exactly one unknown piece, texts in UTF-8 and all different, finite scores,
  // 256 byte pieces or none. bytes must outlive the result.
  static Result<SentencePieceModel> parse(std::string_view bytes, const std::string& source);

  // Gives the pieces the ids that XLM-RoBERTa has them by: <s>, <pad>, </s>, <unk>, then the pieces
  // from the fourth on, and <mask> (the vocabulary of fairseq).
  Status reorder_as_fairseq();
};

// What stands for a space in pieces: U+2581.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

// The byte that "<0x41>" stands for, -1 for other texts.
int byte_of_piece(std::string_view text);

// Where the prefix that the model asks for goes: before every stretch between added tokens, or
// before the first text alone.
enum class DummyPrefix { kEveryStretch, kFirstStretch };

Result<std::unique_ptr<Model>> make_sentence_piece_model(const SentencePieceModel& file,
                                                         const std::string& source);
std::unique_ptr<Model> make_sentence_piece_bpe(const SentencePieceModel& file, Vocabulary tokens,
                                               Vocabulary searched);
std::unique_ptr<Normalizer> make_sentence_piece_normalizer(SentencePieceModel& file,
                                                           DummyPrefix prefix);
// Null where cutting could change what the model does.
std::unique_ptr<PreTokenizer> make_sentence_piece_cutter(const SentencePieceModel& file);
std::unique_ptr<Decoder> make_sentence_piece_decoder(const SentencePieceModel& file);

}  // namespace tessera::tokenizer
