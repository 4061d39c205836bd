#include <algorithm>

#include "tokenizer/rewriter.h"
#include "tokenizer/sentence_piece.h"
#include "tokenizer/trie.h"
#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

// What comes before and after the model in SentencePiece: the character map with its longest rule,
// runs of spaces made one, the prefix, and U+2581 for spaces. User-defined pieces stay as they are.
class SentencePieceNormalizer final : public Normalizer {
 public:
  SentencePieceNormalizer(SentencePieceModel& file, DummyPrefix prefix)
      : map_(std::move(file.map)),
        space_(file.escape_spaces ? kSpaceMark : " "),
        dummy_(file.add_dummy_prefix),
        suffix_(file.space_is_suffix),
        squeeze_(file.remove_extra_spaces),
        prefix_(prefix) {
    std::vector<Trie::Entry> user_defined;
    for (const SentencePieceModel::Piece& piece : file.pieces) {
      if (piece.type == PieceType::kUserDefined) user_defined.emplace_back(piece.text, 0);
    }
    user_defined_ = Trie(std::move(user_defined));
  }

  Status apply(Segment& segment, Scratch& scratch) const override {
    Rewriter rewriter(segment, scratch);
    std::string& out = rewriter.out;
    const std::string_view text = segment.text;
    size_t at = 0;
    while (squeeze_ && at < text.size()) {
      const CharsMap::Rule first = beginning(text.substr(at));
      if (first.replacement != " ") break;
      at += first.length;
    }
    const bool dummy =
        dummy_ && at < text.size() && (prefix_ == DummyPrefix::kEveryStretch || segment.at_origin);
    if (dummy && !suffix_) {
      out += space_;
      rewriter.from_before(at);
    }
    bool after_space = squeeze_;
    while (at < text.size()) {
      const CharsMap::Rule next = beginning(text.substr(at));
      append(next.replacement, after_space, out);
      rewriter.from(at, at + next.length);
      at += next.length;
      TESSERA_RETURN_IF_ERROR(check_text_size(out.size()));
    }
    while (squeeze_ && out.ends_with(space_)) rewriter.cut(out.size() - space_.size());
    if (dummy && suffix_) {
      out += space_;
      rewriter.from(text.size() - 1);
    }
    rewriter.finish();
    return {};
  }

 private:
  // What to replace next; text is not empty, nor is the length.
  CharsMap::Rule beginning(std::string_view text) const {
    if (const size_t length = user_defined_.longest_prefix(text); length > 0) {
      return {length, text.substr(0, length)};
    }
    if (const auto rule = map_.longest(text)) return *rule;
    const size_t length = character_length(text, 0);
    return {length, text.substr(0, length)};
  }

  void append(std::string_view text, bool& after_space, std::string& out) const {
    while (squeeze_ && after_space && text.starts_with(' ')) text.remove_prefix(1);
    if (text.empty()) return;
    for (const char c : text) {
      if (c == ' ') {
        out += space_;
      } else {
        out += c;
      }
    }
    after_space = squeeze_ && text.ends_with(' ');
  }

  CharsMap map_;
  Trie user_defined_;
  std::string_view space_;
  bool dummy_;
  bool suffix_;
  bool squeeze_;
  DummyPrefix prefix_;
};

// Whether a mark stands behind another character in a piece.
bool has_inner_mark(std::string_view text) {
  while (text.starts_with(kSpaceMark)) text.remove_prefix(kSpaceMark.size());
  return text.find(kSpaceMark) != std::string_view::npos;
}

// Cuts before the first mark of a run of them. Where no piece crosses such a place, a BPE model
// does the same to the words as to the whole, and words can be looked up.
class WordCutter final : public PreTokenizer {
 public:
  Status apply(Segment& segment, Scratch& scratch) const override {
    scratch.pieces.clear();
    const std::string_view text = segment.text;
    for (const Span piece : segment.pieces) {
      uint32_t begin = piece.begin;
      size_t at = begin;
      while ((at = text.find(kSpaceMark, at)) < piece.end) {
        if (at > begin && !text.substr(begin, at - begin).ends_with(kSpaceMark)) {
          scratch.pieces.push_back({begin, static_cast<uint32_t>(at)});
          begin = static_cast<uint32_t>(at);
        }
        at += kSpaceMark.size();
      }
      scratch.pieces.push_back({begin, piece.end});
    }
    segment.pieces.swap(scratch.pieces);
    return {};
  }
};

// Marks back to spaces, the first one dropped where a prefix was added; bytes back to text, each
// that belongs to no character as U+FFFD.
class SentencePieceDecoder final : public Decoder {
 public:
  explicit SentencePieceDecoder(const SentencePieceModel& file)
      : unk_(file.pieces[static_cast<size_t>(file.unk_id)].text),
        unk_surface_(file.unk_surface),
        byte_fallback_(file.byte_fallback),
        squeeze_(file.remove_extra_spaces),
        drops_first_(file.add_dummy_prefix || file.remove_extra_spaces) {}

  Status apply(std::vector<std::string>& tokens, Scratch&) const override {
    std::string text, bytes;
    bool at_start = true;
    bool dropped = false;
    for (const std::string& token : tokens) {
      if (const int byte = byte_fallback_ ? byte_of_piece(token) : -1; byte >= 0) {
        bytes.push_back(static_cast<char>(byte));
        continue;
      }
      flush(bytes, text);
      if (dropped || !text.empty()) at_start = false;
      if (token == unk_) {
        text += unk_surface_;
        dropped = false;
      } else {
        dropped = append(token, at_start, text);
      }
    }
    flush(bytes, text);
    tokens.assign(1, std::move(text));
    return {};
  }

 private:
  // True when this was the one mark to drop. With spaces squeezed all at the start are dropped.
  bool append(std::string_view token, bool at_start, std::string& text) const {
    const bool drops = at_start && drops_first_ && token.starts_with(kSpaceMark);
    if (drops) token.remove_prefix(kSpaceMark.size());
    while (!token.empty()) {
      const size_t mark = std::min(token.find(kSpaceMark), token.size());
      text += token.substr(0, mark);
      token.remove_prefix(mark);
      if (token.empty()) break;
      text += ' ';
      token.remove_prefix(kSpaceMark.size());
    }
    return drops && !squeeze_;
  }

  static void flush(std::string& bytes, std::string& text) {
    std::string_view rest = bytes;
    while (!rest.empty()) {
      const size_t good = std::min(find_invalid_utf8(rest), rest.size());
      text += rest.substr(0, good);
      rest.remove_prefix(good);
      if (rest.empty()) break;
      text += kReplacementUtf8;
      rest.remove_prefix(1);
    }
    bytes.clear();
  }

  std::string unk_;
  std::string unk_surface_;
  bool byte_fallback_;
  bool squeeze_;
  bool drops_first_;
};

}  // namespace

std::unique_ptr<Normalizer> make_sentence_piece_normalizer(SentencePieceModel& file,
                                                           DummyPrefix prefix) {
  return std::make_unique<SentencePieceNormalizer>(file, prefix);
}

std::unique_ptr<PreTokenizer> make_sentence_piece_cutter(const SentencePieceModel& file) {
  // The path scores of Unigram are sums from the beginning of the text, rounded.
  if (file.algorithm != SentencePieceModel::Algorithm::kBpe) return nullptr;
  bool has_mark = false;  // else a mark is unknown, and joins unknowns before it
  for (const SentencePieceModel::Piece& piece : file.pieces) {
    if (has_inner_mark(piece.text)) return nullptr;
    has_mark |= piece.text == kSpaceMark && piece.is_searched();
  }
  return has_mark ? std::make_unique<WordCutter>() : nullptr;
}

std::unique_ptr<Decoder> make_sentence_piece_decoder(const SentencePieceModel& file) {
  return std::make_unique<SentencePieceDecoder>(file);
}

}  // namespace tessera::tokenizer
