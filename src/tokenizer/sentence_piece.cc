#include "tokenizer/sentence_piece.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <unordered_set>

#include "tokenizer/protobuf.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unigram.h"

namespace tessera::tokenizer {
namespace {

using Piece = SentencePieceModel::Piece;

Status read_piece(std::string_view message, Piece& piece) {
  return for_each_field(message, [&](const ProtoField& field) -> Status {
    switch (field.number) {
      case 1:
        return field.read(piece.text);
      case 2:
        return field.read(piece.score);
      case 3: {
        int64_t type = 0;
        TESSERA_RETURN_IF_ERROR(field.read(type));
        if (type < 1 || type > 6) {
          return invalid_input(fmt::format("expected a type from 1 to 6, found {}", type));
        }
        piece.type = static_cast<PieceType>(type);
        return {};
      }
      default:
        return {};
    }
  });
}

Status read_trainer(std::string_view message, SentencePieceModel& model) {
  return for_each_field(message, [&](const ProtoField& field) -> Status {
    switch (field.number) {
      case 3: {
        int64_t algorithm = 0;
        TESSERA_RETURN_IF_ERROR(field.read(algorithm));
        if (algorithm != 1 && algorithm != 2) {
          return unsupported(fmt::format(
              "expected a model of type 1 (Unigram) or 2 (BPE), found {}, which is not supported",
              algorithm));
        }
        model.algorithm = static_cast<SentencePieceModel::Algorithm>(algorithm);
        return {};
      }
      case 24:
        return field.read(model.space_is_suffix);
      case 35:
        return field.read(model.byte_fallback);
      case 44:
        return field.read(model.unk_surface);
      default:
        return {};
    }
  });
}

Status read_map(std::string_view bytes, CharsMap& map) {
  if (bytes.empty()) return {};
  TESSERA_ASSIGN_OR_RETURN(map, CharsMap::parse(bytes));
  return {};
}

Status read_normalizer(std::string_view message, SentencePieceModel& model) {
  return for_each_field(message, [&](const ProtoField& field) -> Status {
    switch (field.number) {
      case 2: {
        std::string_view bytes;
        TESSERA_RETURN_IF_ERROR(field.read(bytes));
        return read_map(bytes, model.map);
      }
      case 3:
        return field.read(model.add_dummy_prefix);
      case 4:
        return field.read(model.remove_extra_spaces);
      case 5:
        return field.read(model.escape_spaces);
      default:
        return {};
    }
  });
}

// A character map for decoded text is what no published model has.
Status refuse_denormalizer(std::string_view message) {
  return for_each_field(message, [&](const ProtoField& field) -> Status {
    if (field.number != 2 || field.bytes.empty()) return {};
    return unsupported("a character map for decoded text (denormalizer_spec) is not supported");
  });
}

Status check_piece(const Piece& piece) {
  if (piece.text.empty()) return invalid_input("expected a text, found nothing");
  if (piece.text.size() > kLongestPieceBytes) {
    return invalid_input(fmt::format("expected a text of at most {} bytes, found {}",
                                     kLongestPieceBytes, piece.text.size()));
  }
  if (find_invalid_utf8(piece.text) != std::string_view::npos ||
      piece.text.find('\0') != std::string_view::npos) {
    return invalid_input("expected a text in UTF-8 without NUL, found other bytes");
  }
  if (!std::isfinite(piece.score)) {
    return invalid_input(fmt::format("expected a finite score, found {}", piece.score));
  }
  return {};
}

// What pieces must be together.
class PieceChecks {
 public:
  explicit PieceChecks(SentencePieceModel& model) : model_(model) {}

  Status add(int32_t id, const Piece& piece) {
    const bool is_text = piece.is_searched() || piece.type == PieceType::kUnused;
    if (!(is_text ? texts_ : reserved_).insert(piece.text).second) {
      return invalid_input(
          fmt::format("expected a text of its own, found \"{}\" again", piece.text));
    }
    if (piece.type == PieceType::kUnknown) {
      if (model_.unk_id != kNoToken) {
        return invalid_input(
            fmt::format("expected one unknown piece, found another after piece {}", model_.unk_id));
      }
      model_.unk_id = id;
    }
    if (piece.type == PieceType::kByte) {
      if (byte_of_piece(piece.text) < 0) {
        return invalid_input(
            fmt::format("expected a byte piece from <0x00> to <0xFF>, found \"{}\"", piece.text));
      }
      ++bytes_;
    }
    return {};
  }

  Status finish() const {
    if (model_.unk_id == kNoToken) return invalid_input("expected an unknown piece, found none");
    const size_t wanted = model_.byte_fallback ? 256 : 0;
    if (bytes_ == wanted) return {};
    return invalid_input(fmt::format("expected {} byte pieces, as byte_fallback is {}, found {}",
                                     wanted, model_.byte_fallback, bytes_));
  }

 private:
  SentencePieceModel& model_;
  std::unordered_set<std::string_view> texts_;
  std::unordered_set<std::string_view> reserved_;
  size_t bytes_ = 0;
};

Status check_pieces(SentencePieceModel& model) {
  PieceChecks checks(model);
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    Status status = check_piece(model.pieces[id]);
    if (status.ok()) status = checks.add(static_cast<int32_t>(id), model.pieces[id]);
    if (!status.ok()) {
      return Status(status.code(), fmt::format("piece {}: {}", id, status.message()));
    }
  }
  return checks.finish();
}

Status read_model(std::string_view bytes, SentencePieceModel& model) {
  TESSERA_RETURN_IF_ERROR(for_each_field(bytes, [&](const ProtoField& field) -> Status {
    if (field.number < 1 || field.number > 5 || field.number == 4) return {};
    std::string_view message;
    TESSERA_RETURN_IF_ERROR(field.read(message));
    if (field.number == 2) return read_trainer(message, model);
    if (field.number == 3) return read_normalizer(message, model);
    if (field.number == 5) return refuse_denormalizer(message);
    if (model.pieces.size() > static_cast<size_t>(Vocabulary::kMaxId)) {
      return invalid_input(fmt::format("expected at most {} pieces", Vocabulary::kMaxId + 1));
    }
    return read_piece(message, model.pieces.emplace_back());
  }));
  TESSERA_RETURN_IF_ERROR(check_pieces(model));
  if (find_invalid_utf8(model.unk_surface) != std::string_view::npos) {
    return invalid_input("expected the text of the unknown piece in UTF-8, found other bytes");
  }
  return {};
}

}  // namespace

int byte_of_piece(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  const int high = digit(text[3]);
  const int low = digit(text[4]);
  return high < 0 || low < 0 ? -1 : 16 * high + low;
}

Result<SentencePieceModel> SentencePieceModel::parse(std::string_view bytes,
                                                     const std::string& source) {
  SentencePieceModel model;
  const Status status = read_model(bytes, model);
  if (status.ok()) return model;
  return Status(status.code(), fmt::format("{}: {}", source, status.message()));
}

Status SentencePieceModel::reorder_as_fairseq() {
  constexpr std::array<std::pair<std::string_view, PieceType>, 3> kBegin = {
      {{"<unk>", PieceType::kUnknown},
       {"<s>", PieceType::kControl},
       {"</s>", PieceType::kControl}}};
  for (size_t id = 0; id < kBegin.size(); ++id) {
    const auto& [text, type] = kBegin[id];
    if (id >= pieces.size() || pieces[id].text != text || pieces[id].type != type) {
      return invalid_input(
          fmt::format("expected \"{}\" as piece {} of XLM-RoBERTa, found {}", text, id,
                      id < pieces.size() ? fmt::format("\"{}\"", pieces[id].text) : "none"));
    }
  }
  for (const Piece& piece : pieces) {
    if (piece.text == "<pad>" || piece.text == "<mask>") {
      return invalid_input(fmt::format(
          "expected no piece \"{}\", which XLM-RoBERTa adds to its pieces, found one", piece.text));
    }
  }
  std::vector<Piece> ordered = {pieces[1], {"<pad>", 0, PieceType::kControl}, pieces[2], pieces[0]};
  ordered.insert(ordered.end(), pieces.begin() + 3, pieces.end());
  ordered.push_back({"<mask>", 0, PieceType::kControl});
  pieces = std::move(ordered);
  unk_id = 3;
  return {};
}

Result<std::unique_ptr<Model>> make_sentence_piece_model(const SentencePieceModel& file,
                                                         const std::string& source) {
  std::vector<std::string_view> texts;
  for (const Piece& piece : file.pieces) texts.push_back(piece.text);
  TESSERA_ASSIGN_OR_RETURN(Vocabulary tokens, Vocabulary::from_list(texts, source));
  if (file.algorithm == SentencePieceModel::Algorithm::kBpe) {
    for (size_t id = 0; id < texts.size(); ++id) {
      const Piece& piece = file.pieces[id];
      // Merges make unused pieces as well, and take them apart in the end.
      if (!piece.is_searched() && piece.type != PieceType::kUnused) texts[id] = {};
    }
    TESSERA_ASSIGN_OR_RETURN(Vocabulary searched, Vocabulary::from_list(texts, source));
    return make_sentence_piece_bpe(file, std::move(tokens), std::move(searched));
  }
  UnigramTokens parts;
  UnigramOptions options;
  options.unk_id = file.unk_id;
  options.byte_fallback = file.byte_fallback;
  options.precision = ScorePrecision::kSingle;
  options.joined_unknowns = JoinedUnknowns::kUnknown;
  parts.vocabulary = std::move(tokens);
  parts.least_score = std::numeric_limits<float>::max();
  for (size_t id = 0; id < file.pieces.size(); ++id) {
    const Piece& piece = file.pieces[id];
    const double score = piece.score;
    parts.scores.push_back(score);
    options.user_defined.push_back(piece.type == PieceType::kUserDefined);
    if (piece.is_searched()) parts.searched.push_back(static_cast<int32_t>(id));
    if (piece.type == PieceType::kNormal) parts.least_score = std::min(parts.least_score, score);
  }
  return make_unigram(std::move(parts), std::move(options));
}

}  // namespace tessera::tokenizer
