#include "tokenizer/unigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "tokenizer/trie.h"
#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

// What an unknown character costs beyond the least probable token.
constexpr double kUnknownPenalty = 10;
// What a user-defined token gains with every byte but the first (measured on SentencePiece 0.2.3).
constexpr double kUserDefinedBonus = 0.1;

class Unigram final : public Model {
 public:
  Unigram(UnigramTokens tokens, UnigramOptions options)
      : Model(std::move(tokens.vocabulary)),
        scores_(std::move(tokens.scores)),
        options_(std::move(options)),
        unknown_score_(round(tokens.least_score - kUnknownPenalty)) {
    std::vector<Trie::Entry> entries;
    entries.reserve(tokens.searched.size());
    for (const int32_t id : tokens.searched) entries.emplace_back(vocabulary().token(id), id);
    trie_ = Trie(std::move(entries));
    for (int byte = 0; byte < 256; ++byte) {
      byte_ids_[byte] = vocabulary().find(fmt::format("<0x{:02X}>", byte));
    }
  }

  Status tokenize(std::string_view piece, Scratch& scratch, Tokens& tokens) const override {
    std::vector<PathNode>& best = scratch.path;
    best.assign(piece.size() + 1, {});
    for (size_t begin = 0; begin < piece.size();) {
      const size_t character = character_length(piece, begin);
      extend(piece, begin, character, best);
      begin += character;
    }
    return trace(piece, scratch, tokens);
  }

 private:
  // Path scores in the precision of the reference, so that ties fall as they do there.
  double round(double score) const {
    return options_.precision == ScorePrecision::kSingle
               ? static_cast<double>(static_cast<float>(score))
               : score;
  }

  double score_of(int32_t id, size_t length) const {
    const auto index = static_cast<size_t>(id);
    if (options_.user_defined.empty() || !options_.user_defined[index]) return scores_[index];
    return round(kUserDefinedBonus * static_cast<double>(length - 1));
  }

  // Continues the best path to begin with every token that the rest of the piece begins with.
  void extend(std::string_view piece, size_t begin, size_t character,
              std::vector<PathNode>& best) const {
    const double so_far = best[begin].score;
    const auto offer = [&](size_t end, double step, int32_t id) {
      PathNode& node = best[end];
      const double score = round(so_far + step);
      if (node.id != kUnreached && !(score > node.score)) return;
      node = {score, static_cast<uint32_t>(begin), id};
    };
    bool has_character = false;
    trie_.for_each_prefix(piece.substr(begin), [&](size_t length, int32_t id) {
      offer(begin + length, score_of(id, length), id);
      has_character |= length == character;
    });
    if (!has_character) offer(begin + character, unknown_score_, kUnknown);
  }

  bool is_unknown(int32_t id) const { return id == kUnknown || id == options_.unk_id; }

  // Reads the path from its end; neighbours without a token are one.
  Status trace(std::string_view piece, Scratch& scratch, Tokens& tokens) const {
    const std::vector<PathNode>& best = scratch.path;
    std::vector<Span>& spans = scratch.links;
    spans.clear();
    for (size_t end = piece.size(); end > 0;) {
      const PathNode& node = best[end];
      if (is_unknown(node.id) && !spans.empty() && is_unknown(best[spans.back().end].id)) {
        spans.back().begin = node.begin;
      } else {
        spans.push_back({node.begin, static_cast<uint32_t>(end)});
      }
      end = node.begin;
    }
    for (size_t i = spans.size(); i-- > 0;) {
      const int32_t id = best[spans[i].end].id;
      if (is_unknown(id)) {
        TESSERA_RETURN_IF_ERROR(push_unknown(piece, spans[i], tokens));
      } else {
        tokens.push(id, spans[i]);
      }
    }
    return {};
  }

  Status push_unknown(std::string_view piece, Span span, Tokens& tokens) const {
    const std::string_view text = piece.substr(span.begin, span.end - span.begin);
    if (options_.unk_id == kNoToken) {
      return invalid_input(fmt::format(
          "expected a tokenizer with an unknown token for text outside its vocabulary, found none "
          "(\"{}\")",
          text.size() <= 40 ? text : "a long text"));
    }
    if (options_.joined_unknowns == JoinedUnknowns::kLookedUp) {
      if (const int32_t id = vocabulary().find(text); id != kNoToken) {
        tokens.push(id, span);
        return {};
      }
    }
    const auto known = [&](char c) { return byte_ids_[static_cast<uint8_t>(c)] != kNoToken; };
    if (options_.byte_fallback && std::all_of(text.begin(), text.end(), known)) {
      for (const char c : text) tokens.push(byte_ids_[static_cast<uint8_t>(c)], span);
    } else {
      tokens.push(options_.unk_id, span);
    }
    return {};
  }

  static constexpr int32_t kUnreached = PathNode{}.id;
  static constexpr int32_t kUnknown = -2;

  std::vector<double> scores_;  // by id
  UnigramOptions options_;
  double unknown_score_;
  Trie trie_;
  std::array<int32_t, 256> byte_ids_;
};

// ["token", score]
Status read_piece(const JsonValue& json, std::string_view& token, double& score) {
  if (!json.is_array() || json.size() != 2) return json.wrong("[token, score]");
  TESSERA_ASSIGN_OR_RETURN(token, json[size_t{0}].string());
  TESSERA_ASSIGN_OR_RETURN(score, json[size_t{1}].number());
  if (token.size() > kLongestPieceBytes) {
    return json.refuse(fmt::format("expected a token of at most {} bytes, found {}",
                                   kLongestPieceBytes, token.size()));
  }
  return {};
}

}  // namespace

std::unique_ptr<Model> make_unigram(UnigramTokens tokens, UnigramOptions options) {
  return std::make_unique<Unigram>(std::move(tokens), std::move(options));
}

Result<std::unique_ptr<Model>> make_unigram(const JsonValue& json) {
  UnigramOptions options;
  TESSERA_RETURN_IF_ERROR(json.read("byte_fallback", options.byte_fallback));
  UnigramTokens tokens;
  std::vector<std::string_view> texts;
  tokens.least_score = std::numeric_limits<double>::infinity();
  TESSERA_RETURN_IF_ERROR(json["vocab"].each_element([&](size_t, const JsonValue& piece) -> Status {
    std::string_view token;
    double score = 0;
    TESSERA_RETURN_IF_ERROR(read_piece(piece, token, score));
    texts.push_back(token);
    tokens.scores.push_back(score);
    tokens.least_score = std::min(tokens.least_score, score);
    return {};
  }));
  if (const JsonValue unk = json["unk_id"]; !unk.is_null()) {
    TESSERA_ASSIGN_OR_RETURN(const int64_t id,
                             unk.integer(0, static_cast<int64_t>(texts.size()) - 1));
    options.unk_id = static_cast<int32_t>(id);
  }
  TESSERA_ASSIGN_OR_RETURN(tokens.vocabulary, Vocabulary::from_list(texts, json["vocab"].where()));
  tokens.searched.resize(texts.size());
  std::iota(tokens.searched.begin(), tokens.searched.end(), 0);
  return make_unigram(std::move(tokens), std::move(options));
}

}  // namespace tessera::tokenizer
