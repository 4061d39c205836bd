#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>

#include "tokenizer/components.h"
#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

// What two neighbouring tokens merge into; lower ranks merge first.
struct Merge {
  uint32_t rank = 0;
  int32_t id = kNoToken;
};

class MergeTable {
 public:
  void reserve(size_t count) { slots_.assign(std::bit_ceil(2 * count + 1), {}); }

  // A pair listed twice keeps the later rank.
  void put(int32_t left, int32_t right, Merge merge) {
    const uint64_t pair = key(left, right);
    size_t slot = home(pair);
    while (slots_[slot].merge.id != kNoToken && slots_[slot].pair != pair) slot = after(slot);
    slots_[slot] = {pair, merge};
  }

  // Null when the two do not merge.
  const Merge* find(int32_t left, int32_t right) const {
    const uint64_t pair = key(left, right);
    for (size_t slot = home(pair); slots_[slot].merge.id != kNoToken; slot = after(slot)) {
      if (slots_[slot].pair == pair) return &slots_[slot].merge;
    }
    return nullptr;
  }

 private:
  struct Slot {
    uint64_t pair = 0;
    Merge merge;
  };
  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t home(uint64_t pair) const {
    const uint64_t mixed = (pair ^ pair >> 29) * 0x9E3779B97F4A7C15u;
    return (mixed >> 20 ^ mixed >> 40) & (slots_.size() - 1);
  }
  size_t after(size_t slot) const { return (slot + 1) & (slots_.size() - 1); }

  std::vector<Slot> slots_ = std::vector<Slot>(1);
};

struct BpeOptions {
  std::string unk_token;
  std::string prefix;  // of every character of a word but the first
  std::string suffix;  // of the last character of a word
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;
  bool has_unk = false;
};

// Byte-pair encoding (Sennrich et al. 2016): of the neighbouring pairs the one of the lowest rank
// merges, the leftmost first, until none is left.
class Bpe final : public Model {
 public:
  Bpe(Vocabulary vocabulary, BpeOptions options, MergeTable merges, ByteSpelling spelling)
      : Model(std::move(vocabulary)),
        options_(std::move(options)),
        merges_(std::move(merges)),
        spelling_(spelling) {
    if (options_.has_unk) unk_id_ = this->vocabulary().find(options_.unk_token);
    direct_ = options_.prefix.empty() && options_.suffix.empty();
    for (int byte = 0; byte < 256; ++byte) {
      const auto value = static_cast<uint8_t>(byte);
      fallback_ids_[byte] = this->vocabulary().find(fmt::format("<0x{:02X}>", byte));
      const char character = static_cast<char>(byte);
      const std::string_view single(&character, 1);
      byte_ids_[byte] = this->vocabulary().find(
          spelling_ == ByteSpelling::kRawBytes ? byte_spelling(value) : single);
    }
    bytes_complete_ = spelling_ == ByteSpelling::kRawBytes && direct_ &&
                      std::find(byte_ids_.begin(), byte_ids_.end(), kNoToken) == byte_ids_.end();
  }

  Status tokenize(std::string_view piece, Scratch& scratch, Tokens& tokens) const override {
    const auto piece_size = static_cast<uint32_t>(piece.size());
    if (bytes_complete_ && !options_.ignore_merges) {
      std::vector<int32_t>& symbols = scratch.symbols;
      symbols.clear();
      for (const char byte : piece) symbols.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
    } else {
      std::string spelled;
      if (spelling_ == ByteSpelling::kRawBytes) {
        for (const char byte : piece) spelled += byte_spelling(static_cast<uint8_t>(byte));
        piece = spelled;
      }
      if (options_.ignore_merges) {
        if (const int32_t whole = vocabulary().find(piece); whole != kNoToken) {
          tokens.push(whole, {0, piece_size});
          return {};
        }
      }
      TESSERA_RETURN_IF_ERROR(read_symbols(piece, scratch));
    }
    if (tokens.has_spans) scratch.first_symbols = scratch.symbols;
    merge(scratch);
    tokens.ids.insert(tokens.ids.end(), scratch.symbols.begin(), scratch.symbols.end());
    if (tokens.has_spans) push_spans(scratch, piece_size, tokens);
    return {};
  }

 private:
  // Longer words take the queue: the scan is quadratic.
  static constexpr size_t kScanLimit = 40;

  int32_t id_of_character(std::string_view text, bool first, bool last, std::string& key) const {
    if (direct_ && text.size() == 1 && spelling_ == ByteSpelling::kCharacters) {
      return byte_ids_[static_cast<uint8_t>(text[0])];
    }
    if (direct_) return vocabulary().find(text);
    key.clear();
    if (!first) key += options_.prefix;
    key += text;
    if (last) key += options_.suffix;
    return vocabulary().find(key);
  }

  // False when one of the bytes has no token.
  bool fall_back(std::string_view bytes, Scratch& scratch) const {
    const auto known = [&](char c) { return fallback_ids_[static_cast<uint8_t>(c)] != kNoToken; };
    if (!std::all_of(bytes.begin(), bytes.end(), known)) return false;
    for (const char c : bytes) push(fallback_ids_[static_cast<uint8_t>(c)], 1, scratch);
    return true;
  }

  static void push(int32_t id, size_t length, Scratch& scratch) {
    scratch.symbols.push_back(id);
    scratch.first_lengths.push_back(static_cast<uint32_t>(length));
  }

  Status read_symbols(std::string_view piece, Scratch& scratch) const {
    scratch.symbols.clear();
    scratch.first_lengths.clear();
    std::string key;
    // Unknown characters are counted, and written with the next known one, as the reference does.
    size_t pending_unk = 0;
    for (size_t pos = 0; pos < piece.size();) {
      const size_t begin = pos;
      pos += character_length(piece, pos);
      const std::string_view text = piece.substr(begin, pos - begin);
      // A byte that is spelled out is one byte of the piece.
      const size_t length = spelling_ == ByteSpelling::kRawBytes ? 1 : text.size();
      const int32_t id = id_of_character(text, begin == 0, pos == piece.size(), key);
      if (id != kNoToken) {
        if (pending_unk > 0) push(unk_id_, pending_unk, scratch);
        pending_unk = 0;
        push(id, length, scratch);
      } else if (options_.byte_fallback && fall_back(direct_ ? text : key, scratch)) {
        continue;
      } else if (options_.has_unk) {
        if (unk_id_ == kNoToken) {
          return invalid_input(
              fmt::format("expected the unknown token \"{}\" in the vocabulary, found none",
                          options_.unk_token));
        }
        if (pending_unk > 0 && !options_.fuse_unk) {
          push(unk_id_, pending_unk, scratch);
          pending_unk = 0;
        }
        pending_unk += length;
      }
    }
    if (pending_unk > 0) push(unk_id_, pending_unk, scratch);
    return {};
  }

  // The text of a token of merges is that of its symbols, all prefixes but the first one left out:
  // so the symbols of each can be told. What the piece has no symbols for shifts what follows, as
  // in the reference.
  void push_spans(const Scratch& scratch, uint32_t piece_size, Tokens& tokens) const {
    const bool one_each = bytes_complete_ && !options_.ignore_merges;
    const std::vector<int32_t>& symbols = scratch.first_symbols;
    const auto size_of = [&](int32_t id) { return vocabulary().token(id).size(); };
    uint32_t begin = 0;
    size_t next = 0;
    for (const int32_t id : scratch.symbols) {
      uint32_t end = begin;
      for (size_t covered = 0; next < symbols.size() && covered < size_of(id); ++next) {
        covered += size_of(symbols[next]) - (covered > 0 ? options_.prefix.size() : 0);
        end += one_each ? 1 : scratch.first_lengths[next];
      }
      end = std::min(std::max(end, begin + 1), piece_size);
      begin = std::min(begin, piece_size - 1);
      tokens.spans.push_back({begin, end});
      begin = end;
    }
  }

  void merge(Scratch& scratch) const {
    if (scratch.symbols.size() <= 1) return;
    if (scratch.symbols.size() <= kScanLimit) {
      merge_by_scan(scratch.symbols);
    } else {
      merge_by_queue(scratch);
    }
  }

  void merge_by_scan(std::vector<int32_t>& symbols) const {
    constexpr uint32_t kNever = 0xFFFFFFFF;
    std::array<Merge, kScanLimit> merges;  // merges[i] joins symbols i and i + 1
    size_t count = symbols.size();
    const auto look_up = [&](size_t i) {
      const Merge* found = merges_.find(symbols[i], symbols[i + 1]);
      merges[i] = found != nullptr ? *found : Merge{kNever, kNoToken};
    };
    for (size_t i = 0; i + 1 < count; ++i) look_up(i);
    while (count > 1) {
      size_t best = 0;
      for (size_t i = 1; i + 1 < count; ++i) {
        if (merges[i].rank < merges[best].rank) best = i;
      }
      if (merges[best].rank == kNever) break;
      symbols[best] = merges[best].id;
      std::copy(symbols.begin() + best + 2, symbols.begin() + count, symbols.begin() + best + 1);
      --count;
      if (best + 1 < count) {
        std::copy(merges.begin() + best + 2, merges.begin() + count, merges.begin() + best + 1);
        look_up(best);
      }
      if (best > 0) look_up(best - 1);
    }
    symbols.resize(count);
  }

  // The same with a priority queue over a linked list: O(n log n).
  void merge_by_queue(Scratch& scratch) const {
    constexpr uint32_t kEnd = 0xFFFFFFFF;
    std::vector<int32_t>& symbols = scratch.symbols;
    std::vector<Span>& links = scratch.links;      // begin: the symbol before, end: the one after
    std::vector<uint64_t>& queue = scratch.queue;  // rank and place; the smallest on top
    const auto count = static_cast<uint32_t>(symbols.size());
    links.resize(count);
    queue.clear();
    const auto offer = [&](uint32_t place) {
      if (const Merge* found = merges_.find(symbols[place], symbols[links[place].end])) {
        queue.push_back(static_cast<uint64_t>(found->rank) << 32 | place);
        return true;
      }
      return false;
    };
    for (uint32_t i = 0; i < count; ++i)
      links[i] = {i == 0 ? kEnd : i - 1, i + 1 < count ? i + 1 : kEnd};
    for (uint32_t i = 0; i + 1 < count; ++i) offer(i);
    std::make_heap(queue.begin(), queue.end(), std::greater<>());
    while (!queue.empty()) {
      std::pop_heap(queue.begin(), queue.end(), std::greater<>());
      const uint64_t top = queue.back();
      queue.pop_back();
      const auto place = static_cast<uint32_t>(top);
      if (symbols[place] == kNoToken || links[place].end == kEnd) continue;
      const uint32_t right = links[place].end;
      const Merge* found = merges_.find(symbols[place], symbols[right]);
      if (found == nullptr || found->rank != top >> 32) continue;  // the pair has changed since
      symbols[place] = found->id;
      symbols[right] = kNoToken;
      links[place].end = links[right].end;
      if (links[place].end != kEnd) {
        links[links[place].end].begin = place;
        if (offer(place)) std::push_heap(queue.begin(), queue.end(), std::greater<>());
      }
      if (links[place].begin != kEnd && offer(links[place].begin)) {
        std::push_heap(queue.begin(), queue.end(), std::greater<>());
      }
    }
    symbols.erase(std::remove(symbols.begin(), symbols.end(), kNoToken), symbols.end());
  }

  BpeOptions options_;
  MergeTable merges_;
  ByteSpelling spelling_;
  int32_t unk_id_ = kNoToken;
  bool direct_ = true;  // neither prefix nor suffix
  bool bytes_complete_ = false;
  std::array<int32_t, 256> byte_ids_;
  std::array<int32_t, 256> fallback_ids_;
};

// A merge is "a b" or ["a", "b"].
Status read_pair(const JsonValue& json, std::string_view& left, std::string_view& right) {
  constexpr std::string_view kExpected = "two tokens, as \"a b\" or [\"a\", \"b\"]";
  if (json.is_array()) {
    if (json.size() != 2) return json.wrong(kExpected);
    TESSERA_ASSIGN_OR_RETURN(left, json[size_t{0}].string());
    TESSERA_ASSIGN_OR_RETURN(right, json[size_t{1}].string());
    return {};
  }
  if (!json.is_string()) return json.wrong(kExpected);
  const std::string_view both = *json.string();
  const size_t space = both.find(' ');
  if (space == std::string_view::npos || both.find(' ', space + 1) != std::string_view::npos) {
    return json.wrong(kExpected);
  }
  left = both.substr(0, space);
  right = both.substr(space + 1);
  return {};
}

Status read_merges(const JsonValue& json, const Vocabulary& vocabulary, std::string_view prefix,
                   MergeTable& merges) {
  merges.reserve(json.size());
  uint32_t rank = 0;
  std::string joined;
  const auto id_of = [&](const JsonValue& merge, std::string_view token, int32_t& id) -> Status {
    id = vocabulary.find(token);
    if (id != kNoToken) return {};
    return merge.refuse(fmt::format("expected tokens of the vocabulary, found \"{}\"", token));
  };
  return json.each_element([&](size_t, const JsonValue& merge) -> Status {
    if (merge.is_string() && merge.string()->starts_with("#version")) return {};
    std::string_view left, right;
    TESSERA_RETURN_IF_ERROR(read_pair(merge, left, right));
    int32_t left_id, right_id, joined_id;
    TESSERA_RETURN_IF_ERROR(id_of(merge, left, left_id));
    TESSERA_RETURN_IF_ERROR(id_of(merge, right, right_id));
    if (!right.starts_with(prefix)) {
      return merge.refuse(fmt::format(
          "expected a second token that begins with \"{}\", found \"{}\"", prefix, right));
    }
    joined.assign(left).append(right.substr(prefix.size()));
    TESSERA_RETURN_IF_ERROR(id_of(merge, joined, joined_id));
    merges.put(left_id, right_id, {rank++, joined_id});
    return {};
  });
}

}  // namespace

Result<std::unique_ptr<Model>> make_bpe(const JsonValue& json, ByteSpelling spelling) {
  BpeOptions options;
  options.has_unk = !json["unk_token"].is_null();
  TESSERA_RETURN_IF_ERROR(json.read("unk_token", options.unk_token));
  TESSERA_RETURN_IF_ERROR(json.read("continuing_subword_prefix", options.prefix));
  TESSERA_RETURN_IF_ERROR(json.read("end_of_word_suffix", options.suffix));
  TESSERA_RETURN_IF_ERROR(json.read("fuse_unk", options.fuse_unk));
  TESSERA_RETURN_IF_ERROR(json.read("byte_fallback", options.byte_fallback));
  TESSERA_RETURN_IF_ERROR(json.read("ignore_merges", options.ignore_merges));
  TESSERA_ASSIGN_OR_RETURN(Vocabulary vocabulary, Vocabulary::from_json(json["vocab"]));
  MergeTable merges;
  TESSERA_RETURN_IF_ERROR(read_merges(json["merges"], vocabulary, options.prefix, merges));
  return std::unique_ptr<Model>(std::make_unique<Bpe>(std::move(vocabulary), std::move(options),
                                                      std::move(merges), spelling));
}

}  // namespace tessera::tokenizer
