#include <fmt/format.h>

#include "tokenizer/components.h"
#include "tokenizer/rewriter.h"
#include "tokenizer/split.h"
#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

std::string_view piece_of(const Segment& segment, Span piece) {
  return std::string_view(segment.text).substr(piece.begin, piece.end - piece.begin);
}

// Splits every piece at characters of some groups; each such character is a delimiter.
template <typename IsDelimiter>
void split_at(Segment& segment, Scratch& scratch, SplitBehavior behavior,
              const IsDelimiter& is_delimiter) {
  scratch.pieces.clear();
  std::vector<Stretch> stretches;
  for (const Span piece : segment.pieces) {
    stretches.clear();
    uint32_t begin = piece.begin;
    for (size_t pos = piece.begin; pos < piece.end;) {
      const auto at = static_cast<uint32_t>(pos);
      if (!is_delimiter(next_character(segment.text, pos))) continue;
      const auto end = static_cast<uint32_t>(pos);
      if (begin < at) stretches.push_back({{begin, at}, false});
      stretches.push_back({{at, end}, true});
      begin = end;
    }
    if (begin < piece.end) stretches.push_back({{begin, piece.end}, false});
    append_split(stretches, behavior, scratch.pieces);
  }
  segment.pieces.swap(scratch.pieces);
}

class GroupSplit final : public PreTokenizer {
 public:
  GroupSplit(uint16_t groups, SplitBehavior behavior) : groups_(groups), behavior_(behavior) {}
  Status apply(Segment& segment, Scratch& scratch) const override {
    split_at(segment, scratch, behavior_,
             [this](char32_t c) { return (groups_of(c) & groups_) != 0; });
    return {};
  }

 private:
  uint16_t groups_;
  SplitBehavior behavior_;
};

// Spaces divide and vanish, punctuation stands alone.
class BertPreTokenizer final : public PreTokenizer {
 public:
  Status apply(Segment& segment, Scratch& scratch) const override {
    std::vector<Span>& pieces = scratch.pieces;
    pieces.clear();
    for (const Span piece : segment.pieces) {
      uint32_t begin = piece.begin;
      for (size_t pos = piece.begin; pos < piece.end;) {
        const auto at = static_cast<uint32_t>(pos);
        const uint16_t groups = groups_of(next_character(segment.text, pos));
        if ((groups & (character::kSpace | character::kPunctuation)) == 0) continue;
        const auto end = static_cast<uint32_t>(pos);
        if (begin < at) pieces.push_back({begin, at});
        if ((groups & character::kSpace) == 0) pieces.push_back({at, end});
        begin = end;
      }
      if (begin < piece.end) pieces.push_back({begin, piece.end});
    }
    segment.pieces.swap(pieces);
    return {};
  }
};

// Runs of word characters, and runs of what is neither word nor space.
class Whitespace final : public PreTokenizer {
 public:
  Status apply(Segment& segment, Scratch& scratch) const override {
    constexpr uint16_t kMask = character::kWord | character::kSpace;
    scratch.pieces.clear();
    for (const Span piece : segment.pieces) {
      for (size_t pos = piece.begin; pos < piece.end;) {
        const auto begin = static_cast<uint32_t>(pos);
        const uint16_t kind = groups_of(next_character(segment.text, pos)) & kMask;
        size_t next = pos;
        while (pos < piece.end && (groups_of(next_character(segment.text, next)) & kMask) == kind) {
          pos = next;
        }
        if ((kind & character::kSpace) == 0) {
          scratch.pieces.push_back({begin, static_cast<uint32_t>(pos)});
        }
      }
    }
    segment.pieces.swap(scratch.pieces);
    return {};
  }
};

class Split final : public PreTokenizer {
 public:
  Split(Regex pattern, SplitBehavior behavior, bool inverted)
      : pattern_(std::move(pattern)), behavior_(behavior), inverted_(inverted) {}

  Status apply(Segment& segment, Scratch& scratch) const override {
    scratch.pieces.clear();
    std::vector<Stretch> stretches;
    for (const Span piece : segment.pieces) {
      stretches.clear();
      // The pattern sees the piece alone: what lies before it and after it must not be looked at.
      const std::string_view text = piece_of(segment, piece);
      uint32_t done = 0;
      const auto push = [&](uint32_t begin, uint32_t end, bool matched) {
        stretches.push_back({{piece.begin + begin, piece.begin + end}, matched != inverted_});
      };
      TESSERA_RETURN_IF_ERROR(pattern_.for_each_match(text, scratch.match, [&](Span match) {
        if (done != match.begin) push(done, match.begin, false);
        push(match.begin, match.end, true);
        done = match.end;
      }));
      if (done != text.size()) push(done, static_cast<uint32_t>(text.size()), false);
      append_split(stretches, behavior_, scratch.pieces);
    }
    segment.pieces.swap(scratch.pieces);
    return {};
  }

 private:
  Regex pattern_;
  SplitBehavior behavior_;
  bool inverted_;
};

// Rebuilds segment.text out of its pieces; write(piece, rewriter) writes one of them.
template <typename Write>
Status rewrite_pieces(Segment& segment, Scratch& scratch, const Write& write) {
  Rewriter rewriter(segment, scratch);
  if (!segment.pieces.empty() && segment.pieces[0].begin != 0) segment.at_origin = false;
  for (Span& piece : segment.pieces) {
    const auto begin = static_cast<uint32_t>(rewriter.out.size());
    write(piece, rewriter);
    TESSERA_RETURN_IF_ERROR(check_text_size(rewriter.out.size()));
    piece = {begin, static_cast<uint32_t>(rewriter.out.size())};
  }
  rewriter.finish();
  return {};
}

class ByteLevel final : public PreTokenizer {
 public:
  static Result<std::unique_ptr<PreTokenizer>> make(const JsonValue& json, ByteSpelling spelling) {
    auto made = std::make_unique<ByteLevel>();
    made->spelling_ = spelling;
    TESSERA_RETURN_IF_ERROR(json.read("add_prefix_space", made->add_prefix_space_));
    TESSERA_RETURN_IF_ERROR(json.read("use_regex", made->use_regex_));
    return std::unique_ptr<PreTokenizer>(std::move(made));
  }

  Status apply(Segment& segment, Scratch& scratch) const override {
    if (add_prefix_space_) {
      TESSERA_RETURN_IF_ERROR(rewrite_pieces(segment, scratch, [&](Span piece, Rewriter& rewriter) {
        if (segment.text[piece.begin] != ' ') {
          rewriter.out += ' ';
          rewriter.from(piece.begin);
        }
        rewriter.keep(piece.begin, piece.end);
      }));
    }
    if (use_regex_) {
      scratch.pieces.clear();
      for (const Span piece : segment.pieces) {
        append_gpt2_words(segment.text, piece, scratch.pieces);
      }
      segment.pieces.swap(scratch.pieces);
    }
    if (spelling_ == ByteSpelling::kRawBytes) return {};
    return rewrite_pieces(segment, scratch, [&](Span piece, Rewriter& rewriter) {
      for (uint32_t at = piece.begin; at < piece.end; ++at) {
        rewriter.out += byte_spelling(static_cast<uint8_t>(segment.text[at]));
        rewriter.from(at);
      }
    });
  }

 private:
  ByteSpelling spelling_ = ByteSpelling::kCharacters;
  bool add_prefix_space_ = true;
  bool use_regex_ = true;
};

class Metaspace final : public PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };

  static Result<std::unique_ptr<PreTokenizer>> make(const JsonValue& json) {
    auto made = std::make_unique<Metaspace>();
    TESSERA_RETURN_IF_ERROR(json.read("replacement", made->mark_));
    if (made->mark_.empty() || character_length(made->mark_, 0) != made->mark_.size()) {
      return json["replacement"].wrong("one character");
    }
    TESSERA_RETURN_IF_ERROR(json.read("split", made->split_));
    bool add_prefix_space = true;
    TESSERA_RETURN_IF_ERROR(json.read("add_prefix_space", add_prefix_space));
    std::string scheme = add_prefix_space ? "always" : "never";
    TESSERA_RETURN_IF_ERROR(json.read("prepend_scheme", scheme));
    if (scheme == "always") {
      made->prepend_ = Prepend::kAlways;
    } else if (scheme == "first") {
      made->prepend_ = Prepend::kFirst;
    } else if (scheme == "never") {
      made->prepend_ = Prepend::kNever;
    } else {
      return json["prepend_scheme"].wrong("\"always\", \"first\" or \"never\"");
    }
    return std::unique_ptr<PreTokenizer>(std::move(made));
  }

  Status apply(Segment& segment, Scratch& scratch) const override {
    // Whether the first piece is where the input begins, before its text moves.
    bool first = segment.at_origin && !segment.pieces.empty() && segment.pieces[0].begin == 0;
    TESSERA_RETURN_IF_ERROR(rewrite_pieces(segment, scratch, [&](Span piece, Rewriter& rewriter) {
      const std::string_view text = piece_of(segment, piece);
      const bool marked = text[0] == ' ' || text.starts_with(mark_);
      const bool wanted = prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && first);
      if (wanted && !marked) {
        rewriter.out += mark_;
        rewriter.from(piece.begin);
      }
      mark_spaces(piece, text, rewriter);
      first = false;
    }));
    if (split_) split_before_marks(segment, scratch);
    return {};
  }

 private:
  void mark_spaces(Span piece, std::string_view text, Rewriter& rewriter) const {
    for (size_t begin = 0; begin < text.size();) {
      const size_t space = std::min(text.find(' ', begin), text.size());
      rewriter.keep(piece.begin + begin, piece.begin + space);
      if (space == text.size()) break;
      rewriter.out += mark_;
      rewriter.from(piece.begin + space);
      begin = space + 1;
    }
  }

  // A mark starts a piece; each further mark that follows at once starts another.
  void split_before_marks(Segment& segment, Scratch& scratch) const {
    scratch.pieces.clear();
    for (const Span piece : segment.pieces) {
      const std::string_view text = std::string_view(segment.text).substr(0, piece.end);
      uint32_t begin = piece.begin;
      while (begin < piece.end) {
        const size_t at = text.find(mark_, begin + 1);
        const uint32_t end = at < piece.end ? static_cast<uint32_t>(at) : piece.end;
        scratch.pieces.push_back({begin, end});
        begin = end;
      }
    }
    segment.pieces.swap(scratch.pieces);
  }

  std::string mark_ = "\xE2\x96\x81";
  Prepend prepend_ = Prepend::kAlways;
  bool split_ = true;
};

Result<SplitBehavior> read_behavior(const JsonValue& json, std::string_view fallback) {
  std::string name(fallback);
  TESSERA_RETURN_IF_ERROR(json.read("behavior", name));
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return json["behavior"].wrong(
      "Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous");
}

Result<std::unique_ptr<PreTokenizer>> make_split(const JsonValue& json) {
  bool inverted = false;
  TESSERA_RETURN_IF_ERROR(json.read("invert", inverted));
  if (json["behavior"].is_null()) return json["behavior"].wrong("a string");
  TESSERA_ASSIGN_OR_RETURN(const SplitBehavior behavior, read_behavior(json, ""));
  TESSERA_ASSIGN_OR_RETURN(Regex pattern, make_pattern(json["pattern"]));
  return std::unique_ptr<PreTokenizer>(
      std::make_unique<Split>(std::move(pattern), behavior, inverted));
}

Result<std::unique_ptr<PreTokenizer>> make_group_split(uint16_t groups, SplitBehavior behavior) {
  return std::unique_ptr<PreTokenizer>(std::make_unique<GroupSplit>(groups, behavior));
}

Result<std::unique_ptr<PreTokenizer>> make_pre_tokenizer(std::string_view type,
                                                         const JsonValue& json) {
  if (type == "ByteLevel") return ByteLevel::make(json, ByteSpelling::kCharacters);
  if (type == "Split") return make_split(json);
  if (type == "BertPreTokenizer") {
    return std::unique_ptr<PreTokenizer>(std::make_unique<BertPreTokenizer>());
  }
  if (type == "Whitespace") return std::unique_ptr<PreTokenizer>(std::make_unique<Whitespace>());
  if (type == "WhitespaceSplit") {
    return make_group_split(character::kSpace, SplitBehavior::kRemoved);
  }
  if (type == "Punctuation") {
    TESSERA_ASSIGN_OR_RETURN(const SplitBehavior behavior, read_behavior(json, "Isolated"));
    return make_group_split(character::kPunctuation, behavior);
  }
  if (type == "Digits") {
    bool individual = false;
    TESSERA_RETURN_IF_ERROR(json.read("individual_digits", individual));
    return make_group_split(character::kNumber,
                            individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  if (type == "Metaspace") return Metaspace::make(json);
  return unknown_type(json, "pre-tokenizer", type);
}

}  // namespace

Result<ByteSpelling> make_pre_tokenizers(const JsonValue& json, ByteSpelling allowed,
                                         std::vector<std::unique_ptr<PreTokenizer>>& steps) {
  std::vector<std::pair<std::string, JsonValue>> leaves;
  TESSERA_RETURN_IF_ERROR(
      each_step(json, "pretokenizers", [&](std::string_view type, const JsonValue& step) -> Status {
        leaves.emplace_back(type, step);
        return {};
      }));
  ByteSpelling spelling = ByteSpelling::kCharacters;
  for (size_t i = 0; i < leaves.size(); ++i) {
    const auto& [type, step] = leaves[i];
    if (i + 1 == leaves.size() && type == "ByteLevel") {
      spelling = allowed;
      TESSERA_ASSIGN_OR_RETURN(auto made, ByteLevel::make(step, spelling));
      steps.push_back(std::move(made));
    } else {
      TESSERA_ASSIGN_OR_RETURN(auto made, make_pre_tokenizer(type, step));
      steps.push_back(std::move(made));
    }
  }
  return spelling;
}

}  // namespace tessera::tokenizer
