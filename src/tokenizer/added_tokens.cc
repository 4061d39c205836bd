#include "tokenizer/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "tokenizer/unicode.h"

namespace tessera::tokenizer {
namespace {

bool in_group(uint16_t group, std::string_view text, size_t pos) {
  return (groups_of(next_character(text, pos)) & group) != 0;
}

bool word_before(std::string_view text, size_t end) {
  return end > 0 && in_group(character::kWord, text, previous_character(text, end));
}

bool word_after(std::string_view text, size_t begin) {
  return begin < text.size() && in_group(character::kWord, text, begin);
}

}  // namespace

void AddedTokens::Matcher::finish() {
  std::stable_sort(patterns.begin(), patterns.end(),
                   [](const Pattern& a, const Pattern& b) { return a.text < b.text; });
  for (const Pattern& pattern : patterns) starts[static_cast<uint8_t>(pattern.text[0])] = true;
}

const AddedTokens::Pattern* AddedTokens::Matcher::match(std::string_view text, size_t at) const {
  // [low, high) are the patterns that begin with the depth bytes at hand.
  auto low = patterns.begin();
  auto high = patterns.end();
  const Pattern* longest = nullptr;
  for (size_t depth = 0; at + depth < text.size() && low != high; ++depth) {
    const auto byte = static_cast<uint8_t>(text[at + depth]);
    const auto byte_at = [depth](const Pattern& pattern) {
      return depth < pattern.text.size() ? static_cast<uint8_t>(pattern.text[depth]) : -1;
    };
    low = std::partition_point(low, high, [&](const Pattern& p) { return byte_at(p) < byte; });
    high = std::partition_point(low, high, [&](const Pattern& p) { return byte_at(p) <= byte; });
    if (low != high && low->text.size() == depth + 1) longest = &*low;
  }
  return longest;
}

Result<AddedTokens::Token> AddedTokens::read_token(const JsonValue& json) {
  if (!json.is_object()) return json.wrong("an object");
  Token token;
  TESSERA_RETURN_IF_ERROR(json.require("content", token.content));
  TESSERA_RETURN_IF_ERROR(json.read("special", token.special));
  token.normalized = !token.special;  // where the file does not say
  TESSERA_RETURN_IF_ERROR(json.read("normalized", token.normalized));
  TESSERA_RETURN_IF_ERROR(json.read("single_word", token.single_word));
  TESSERA_RETURN_IF_ERROR(json.read("lstrip", token.lstrip));
  TESSERA_RETURN_IF_ERROR(json.read("rstrip", token.rstrip));
  return token;
}

Status AddedTokens::add_missing(const JsonValue& json, const Vocabulary& vocabulary) {
  TESSERA_ASSIGN_OR_RETURN(Token token, read_token(json));
  if (token.content.empty() || by_content_.contains(token.content)) return {};
  const int32_t known = vocabulary.find(token.content);
  token.id = known != kNoToken ? known : std::max(id_end_, vocabulary.id_end());
  const auto index = static_cast<uint32_t>(tokens_.size());
  if (!by_id_.try_emplace(token.id, index).second) return {};
  by_content_.emplace(token.content, index);
  id_end_ = std::max(id_end_, token.id + 1);
  tokens_.push_back(std::move(token));
  return {};
}

Status AddedTokens::add(const JsonValue& json, const Vocabulary& vocabulary, int64_t largest_id) {
  TESSERA_ASSIGN_OR_RETURN(Token token, read_token(json));
  TESSERA_ASSIGN_OR_RETURN(const int64_t id, json["id"].integer(0, largest_id));
  token.id = static_cast<int32_t>(id);
  if (token.content.empty()) return {};  // matches nothing

  const auto collides = [&](std::string_view other) {
    return json["id"].refuse(
        fmt::format("expected an id of its own for \"{}\", found {}, which \"{}\" has",
                    token.content, id, other));
  };
  const int32_t known = vocabulary.find(token.content);
  if (known != kNoToken && known != token.id) {
    return json["id"].refuse(fmt::format(
        "expected {}, the id of \"{}\" in the vocabulary, found {}", known, token.content, id));
  }
  if (known == kNoToken && vocabulary.has(token.id)) return collides(vocabulary.token(token.id));
  const auto index = static_cast<uint32_t>(tokens_.size());
  const auto [owner, is_new] = by_id_.try_emplace(token.id, index);
  if (!is_new && tokens_[owner->second].content != token.content) {
    return collides(tokens_[owner->second].content);
  }
  const auto [same, is_new_content] = by_content_.try_emplace(token.content, index);
  if (!is_new_content && tokens_[same->second].id != token.id) {
    return json["id"].refuse(fmt::format("expected {}, the id given to \"{}\" before, found {}",
                                         tokens_[same->second].id, token.content, id));
  }
  if (!is_new) {
    tokens_[owner->second] = std::move(token);
    return {};
  }
  id_end_ = std::max(id_end_, token.id + 1);
  tokens_.push_back(std::move(token));
  return {};
}

Result<AddedTokens> AddedTokens::from_json(const JsonValue& json, const Vocabulary& vocabulary,
                                           const JsonValue& more) {
  AddedTokens added;
  const int64_t largest_id =
      Vocabulary::largest_plausible_id(static_cast<size_t>(vocabulary.id_end()) + json.size());
  if (!json.is_null()) {
    TESSERA_RETURN_IF_ERROR(json.each_element(
        [&](size_t, const JsonValue& token) { return added.add(token, vocabulary, largest_id); }));
  }
  if (!more.is_null()) {
    TESSERA_RETURN_IF_ERROR(more.each_element(
        [&](size_t, const JsonValue& token) { return added.add_missing(token, vocabulary); }));
  }
  for (uint32_t i = 0; i < added.tokens_.size(); ++i) {
    Matcher& matcher = added.tokens_[i].normalized ? added.normalized_ : added.raw_;
    matcher.patterns.push_back({added.tokens_[i].content, i});
  }
  added.raw_.finish();
  added.normalized_.finish();
  return added;
}

void AddedTokens::read_special_as_text() {
  for (Matcher* matcher : {&raw_, &normalized_}) {
    std::vector<Pattern> patterns = std::move(matcher->patterns);
    std::erase_if(patterns, [&](const Pattern& each) { return tokens_[each.token].special; });
    *matcher = {};
    matcher->patterns = std::move(patterns);
    matcher->finish();
  }
}

Status AddedTokens::normalize_with(const std::vector<std::unique_ptr<Normalizer>>& normalizers,
                                   Scratch& scratch) {
  if (normalizers.empty()) return {};
  std::vector<Pattern> patterns;
  for (Pattern& pattern : normalized_.patterns) {
    Segment segment;
    segment.text = pattern.text;
    for (const auto& normalizer : normalizers) {
      TESSERA_RETURN_IF_ERROR(normalizer->apply(segment, scratch));
    }
    if (!segment.text.empty()) patterns.push_back({std::move(segment.text), pattern.token});
  }
  normalized_ = {};
  normalized_.patterns = std::move(patterns);
  normalized_.finish();
  return {};
}

void AddedTokens::push(const Token& token, Span match, std::string_view text, uint32_t& done,
                       std::vector<Stretch>& stretches) const {
  uint32_t begin = match.begin;
  uint32_t end = match.end;
  if (token.single_word && (word_before(text, begin) || word_after(text, end))) return;
  if (token.lstrip) {
    while (begin > 0) {
      const size_t before = previous_character(text, begin);
      if (!in_group(character::kSpace, text, before)) break;
      begin = static_cast<uint32_t>(before);
    }
    begin = std::max(begin, done);
  }
  if (token.rstrip) {
    while (end < text.size() && in_group(character::kSpace, text, end)) {
      end += static_cast<uint32_t>(character_length(text, end));
    }
  }
  if (done < begin) stretches.push_back({{done, begin}, kNoToken});
  stretches.push_back({{begin, end}, token.id});
  done = end;
}

void AddedTokens::split(Stage stage, std::string_view text, std::vector<Stretch>& stretches) const {
  stretches.clear();
  const Matcher& patterns = matcher(stage);
  uint32_t done = 0;
  if (!patterns.patterns.empty()) {
    for (size_t at = 0; at < text.size();) {
      const Pattern* found =
          patterns.starts[static_cast<uint8_t>(text[at])] ? patterns.match(text, at) : nullptr;
      if (found == nullptr) {
        ++at;
        continue;
      }
      const auto end = static_cast<uint32_t>(at + found->text.size());
      push(tokens_[found->token], {static_cast<uint32_t>(at), end}, text, done, stretches);
      at = end;
    }
  }
  if (done < text.size()) {
    stretches.push_back({{done, static_cast<uint32_t>(text.size())}, kNoToken});
  }
}

const std::string* AddedTokens::content(int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second].content;
}

int32_t AddedTokens::find(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  return found == by_content_.end() ? kNoToken : tokens_[found->second].id;
}

bool AddedTokens::is_special(int32_t id) const {
  const auto found = by_id_.find(id);
  return found != by_id_.end() && tokens_[found->second].special;
}

}  // namespace tessera::tokenizer
