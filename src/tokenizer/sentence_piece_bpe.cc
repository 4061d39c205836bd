#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <unordered_map>

#include "tokenizer/sentence_piece.h"
#include "tokenizer/trie.h"
#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

// Byte-pair encoding as SentencePiece does it: of the neighbours whose joined text is a piece, the
// pair with the highest score of that piece merges, the leftmost first.
class SentencePieceBpe final : public Model {
 public:
  SentencePieceBpe(const SentencePieceModel& file, Vocabulary tokens, Vocabulary searched)
      : Model(std::move(tokens)),
        searched_(std::move(searched)),
        unk_id_(file.unk_id),
        byte_fallback_(file.byte_fallback) {
    std::vector<Trie::Entry> user_defined;
    for (size_t id = 0; id < file.pieces.size(); ++id) {
      const SentencePieceModel::Piece& piece = file.pieces[id];
      order_.push_back(order_of(piece.score));
      unused_.push_back(piece.type == PieceType::kUnused);
      if (piece.type == PieceType::kUserDefined) {
        user_defined.emplace_back(piece.text, static_cast<int32_t>(id));
      }
    }
    user_defined_ = Trie(std::move(user_defined));
    for (int byte = 0; byte < 256; ++byte) {
      byte_ids_[byte] = vocabulary().find(fmt::format("<0x{:02X}>", byte));
    }
  }

  Status tokenize(std::string_view piece, Scratch& scratch, Tokens& tokens) const override {
    Symbols symbols{piece, scratch.links, scratch.pieces, scratch.queue, {}, {}};
    read_symbols(symbols);
    merge(symbols);
    bool after_unknown = false;
    for (uint32_t i = 0; i != kEnd; i = symbols.links[i].end) {
      push(symbols.text(i), symbols, after_unknown, tokens);
    }
    return {};
  }

 private:
  static constexpr uint32_t kEnd = 0xFFFFFFFF;

  // What a text is cut into at the moment. A symbol that has merged into the one before it is
  // empty.
  struct Symbols {
    std::string_view piece;
    std::vector<Span>& links;      // begin: the symbol before, end: the one after
    std::vector<Span>& spans;      // of piece
    std::vector<uint64_t>& queue;  // order and left symbol of what may merge; the smallest on top
    std::vector<bool> frozen;      // user-defined: never merges
    std::unordered_map<std::string_view, size_t> cuts;  // where an unused piece comes apart
    std::string_view text(uint32_t i) const {
      return piece.substr(spans[i].begin, spans[i].end - spans[i].begin);
    }
  };

  // Sorts higher scores first.
  static uint32_t order_of(float score) {
    const auto bits = std::bit_cast<uint32_t>(score + 0.0f);  // one zero
    const uint32_t ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    return ~ascending;
  }

  void read_symbols(Symbols& symbols) const {
    symbols.links.clear();
    symbols.spans.clear();
    symbols.queue.clear();
    for (size_t pos = 0; pos < symbols.piece.size();) {
      size_t length = user_defined_.longest_prefix(symbols.piece.substr(pos));
      symbols.frozen.push_back(length > 0);
      if (length == 0) length = character_length(symbols.piece, pos);
      const auto i = static_cast<uint32_t>(symbols.spans.size());
      symbols.spans.push_back({static_cast<uint32_t>(pos), static_cast<uint32_t>(pos + length)});
      symbols.links.push_back({i == 0 ? kEnd : i - 1, i + 1});
      pos += length;
    }
    symbols.links.back().end = kEnd;
  }

  // The piece that a symbol and the one after it form, kNoToken when they do not.
  int32_t joined(const Symbols& symbols, uint32_t left) const {
    const uint32_t right = symbols.links[left].end;
    if (right == kEnd || symbols.frozen[left] || symbols.frozen[right]) return kNoToken;
    const uint32_t begin = symbols.spans[left].begin;
    return searched_.find(symbols.piece.substr(begin, symbols.spans[right].end - begin));
  }

  bool offer(Symbols& symbols, uint32_t left) const {
    const int32_t id = joined(symbols, left);
    if (id == kNoToken) return false;
    symbols.queue.push_back(static_cast<uint64_t>(order_[id]) << 32 | left);
    if (unused_[id]) {
      const Span right = symbols.spans[symbols.links[left].end];
      const uint32_t begin = symbols.spans[left].begin;
      symbols.cuts[symbols.piece.substr(begin, right.end - begin)] = right.begin - begin;
    }
    return true;
  }

  void merge(Symbols& symbols) const {
    std::vector<uint64_t>& queue = symbols.queue;
    std::vector<Span>& links = symbols.links;
    for (uint32_t i = 0; i + 1 < symbols.spans.size(); ++i) offer(symbols, i);
    std::make_heap(queue.begin(), queue.end(), std::greater<>());
    while (!queue.empty()) {
      std::pop_heap(queue.begin(), queue.end(), std::greater<>());
      const uint64_t top = queue.back();
      queue.pop_back();
      const auto left = static_cast<uint32_t>(top);
      if (symbols.text(left).empty()) continue;
      const int32_t id = joined(symbols, left);
      if (id == kNoToken || order_[id] != top >> 32) continue;  // the pair has changed since
      const uint32_t right = links[left].end;
      symbols.spans[left].end = symbols.spans[right].end;
      symbols.spans[right].begin = symbols.spans[right].end;
      links[left].end = links[right].end;
      if (links[left].end != kEnd) links[links[left].end].begin = left;
      for (const uint32_t changed : {links[left].begin, left}) {
        if (changed != kEnd && offer(symbols, changed)) {
          std::push_heap(queue.begin(), queue.end(), std::greater<>());
        }
      }
    }
  }

  // Appends the tokens of a symbol; unused pieces come apart into what they were merged from.
  void push(std::string_view text, const Symbols& symbols, bool& after_unknown,
            Tokens& tokens) const {
    std::vector<std::string_view> open = {text};
    while (!open.empty()) {
      const std::string_view part = open.back();
      open.pop_back();
      const int32_t id = searched_.find(part);
      const bool comes_apart = id != kNoToken && unused_[id];
      const auto cut = comes_apart ? symbols.cuts.find(part) : symbols.cuts.end();
      if (cut != symbols.cuts.end()) {
        open.push_back(part.substr(cut->second));
        open.push_back(part.substr(0, cut->second));
        continue;
      }
      const auto begin = static_cast<uint32_t>(part.data() - symbols.piece.data());
      push_piece(symbols.piece, {begin, begin + static_cast<uint32_t>(part.size())}, id, tokens,
                 after_unknown);
    }
  }

  void push_piece(std::string_view piece, Span span, int32_t id, Tokens& tokens,
                  bool& after_unknown) const {
    if (id != kNoToken) {
      tokens.push(id, span);
    } else if (byte_fallback_) {
      for (uint32_t at = span.begin; at < span.end; ++at) {
        tokens.push(byte_ids_[static_cast<uint8_t>(piece[at])], span);
      }
    } else if (!after_unknown) {
      tokens.push(unk_id_, span);
    } else if (tokens.has_spans) {
      tokens.spans.back().end = span.end;
    }
    after_unknown = id == kNoToken;
  }

  Vocabulary searched_;
  int32_t unk_id_;
  bool byte_fallback_;
  std::vector<uint32_t> order_;  // by id
  std::vector<bool> unused_;     // by id
  Trie user_defined_;
  std::array<int32_t, 256> byte_ids_;
};

}  // namespace

std::unique_ptr<Model> make_sentence_piece_bpe(const SentencePieceModel& file, Vocabulary tokens,
                                               Vocabulary searched) {
  return std::make_unique<SentencePieceBpe>(file, std::move(tokens), std::move(searched));
}

}  // namespace tessera::tokenizer
