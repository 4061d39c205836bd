#include "support/small_tokenizers.h"

#include <fmt/format.h>

#include <map>

#include "io/json.h"
#include "support/target.h"
#include "tokenizer/charsmap_testing.h"
#include "tokenizer/components.h"
#include "tokenizer/proto_testing.h"
#include "tokenizer/unicode.h"

namespace tessera::fuzz {
namespace {

using Strings = std::vector<std::string>;

constexpr const char* kWords[] = {"the",
                                  " the",
                                  "ing",
                                  "and",
                                  " and",
                                  "hello",
                                  " world",
                                  "don't",
                                  "'s",
                                  "'ll",
                                  "12",
                                  "2024",
                                  "  ",
                                  "   ",
                                  "\n\n",
                                  "\r\n",
                                  "...",
                                  "->",
                                  "e\xCC\x81",
                                  "\xC3\xA9t\xC3\xA9",
                                  " \xC3\xA9",
                                  "\xE4\xB8\xAD\xE6\x96\x87",
                                  "\xF0\x9F\x98\x80",
                                  "\xF0\x9F\x91\x8D\xF0\x9F\x8F\xBD",
                                  "\xD0\xBF\xD1\x80\xD0\xB8",
                                  "\xEF\xAC\x81"};

TokenizerPointer require_loaded(const Result<TokenizerPointer>& made) {
  require(made.ok());
  return *made;
}

TokenizerPointer load(const std::string& model, const std::string& others) {
  const std::string text = fmt::format(R"({{"model": {}, {}}})", model, others);
  const auto made = Tokenizer::from_json(text, "small");
  if (!made.ok()) fmt::print(stderr, "{}\n{}\n", made.status().message(), text);
  return require_loaded(made);
}

std::string characters_of(std::string_view word, size_t& at) {
  size_t end = at + 1;
  while (end < word.size() && tokenizer::is_continuation(word[end])) ++end;
  const std::string character(word.substr(at, end - at));
  at = end;
  return character;
}

// A BPE model whose merges spell words from left to right.
class Bpe {
 public:
  void add(const std::string& token) { ids_.emplace(token, static_cast<int32_t>(ids_.size())); }
  void add_word(const Strings& symbols) {
    std::string whole = symbols.front();
    add(whole);
    for (size_t i = 1; i < symbols.size(); ++i) {
      add(symbols[i]);
      const std::string joined = whole + symbols[i];
      if (!ids_.contains(joined)) {
        merges_ += fmt::format("{}[{}, {}]", merges_.empty() ? "" : ", ", to_json_string(whole),
                               to_json_string(symbols[i]));
        add(joined);
      }
      whole = joined;
    }
  }
  std::string json(const std::string& options) const {
    std::string vocabulary;
    for (const auto& [token, id] : ids_) {
      vocabulary +=
          fmt::format("{}{}: {}", vocabulary.empty() ? "" : ", ", to_json_string(token), id);
    }
    return fmt::format(R"({{"type": "BPE", "vocab": {{{}}}, "merges": [{}]{}}})", vocabulary,
                       merges_, options);
  }
  size_t size() const { return ids_.size(); }

 private:
  std::map<std::string, int32_t> ids_;
  std::string merges_;
};

Strings characters(std::string_view word) {
  Strings all;
  for (size_t at = 0; at < word.size();) all.push_back(characters_of(word, at));
  return all;
}

Strings spelled_bytes(std::string_view word) {
  Strings all;
  for (const char byte : word) {
    all.emplace_back(tokenizer::byte_spelling(static_cast<uint8_t>(byte)));
  }
  return all;
}

std::string marked(std::string word) {
  for (size_t at; (at = word.find(' ')) != std::string::npos;) word.replace(at, 1, "\xE2\x96\x81");
  return word;
}

std::string byte_piece(int byte) { return fmt::format("<0x{:02X}>", byte); }

std::string split(const std::string& pattern) {
  return fmt::format(
      R"({{"type": "Sequence", "pretokenizers": [
        {{"type": "Split", "pattern": {{"Regex": {}}}, "behavior": "Isolated", "invert": false}},
        {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}}]}})",
      to_json_string(pattern));
}

// [["<unk>", 0], ["the", -1.5], ...] with every word whole and by its characters.
std::string unigram_vocabulary() {
  std::map<std::string, double> scores;
  for (const char* word : kWords) {
    scores.emplace(marked(word), -4.5);
    for (const std::string& character : characters(marked(word))) scores.emplace(character, -6);
  }
  for (char c = '!'; c <= '~'; ++c) scores.emplace(std::string(1, c), -7);
  std::string list = R"(["<unk>", 0], ["<s>", 0], ["</s>", 0])";
  for (const auto& [token, score] : scores) {
    list += fmt::format(", [{}, {}]", to_json_string(token), score);
  }
  return "[" + list + "]";
}

std::string small_charsmap() {
  return tokenizer::charsmap_bytes({{"\xEF\xAC\x81", "fi"},
                                    {"\xC2\xA0", " "},
                                    {"e\xCC\x81", "\xC3\xA9"},
                                    {"\t", " "},
                                    {"\xE2\x84\xA2", "TM"},
                                    {"\xC2\xAD", ""},
                                    {"A", "a"}});
}

}  // namespace

std::vector<TokenizerPointer> byte_level_tokenizers() {
  Bpe bpe;
  for (int byte = 0; byte < 256; ++byte)
    bpe.add_word(spelled_bytes(std::string(1, static_cast<char>(byte))));
  for (const char* word : kWords) bpe.add_word(spelled_bytes(word));
  const size_t size = bpe.size();
  const std::string added = fmt::format(
      R"("decoder": {{"type": "ByteLevel"}}, "added_tokens": [
        {{"id": {}, "content": "<|end|>", "special": true}}, {{"id": {}, "content": "<tool>", "special": false}},
        {{"id": {}, "content": "\u4e2d<", "special": false, "normalized": true}}])",
      size, size + 1, size + 2);
  const std::string gpt2 = R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true})";
  const std::string form = fmt::format(
      R"({{"type": "TemplateProcessing", "single": [{{"SpecialToken": {{"id": "<|end|>", "type_id": 0}}}},
        {{"Sequence": {{"id": "A", "type_id": 0}}}}], "pair": [{{"Sequence": {{"id": "A", "type_id": 0}}}},
        {{"SpecialToken": {{"id": "<|end|>", "type_id": 0}}}}, {{"Sequence": {{"id": "B", "type_id": 1}}}}],
        "special_tokens": {{"<|end|>": {{"id": "<|end|>", "ids": [{}], "tokens": ["<|end|>"]}}}}}})",
      size);
  const auto with = [&](const std::string& options, const std::string& pre_tokenizer,
                        const std::string& post_processor) {
    return load(bpe.json(options), fmt::format(R"("pre_tokenizer": {}, "post_processor": {}, {})",
                                               pre_tokenizer, post_processor, added));
  };
  return {
      with("", gpt2, "null"),
      with(
          R"(, "ignore_merges": true)",
          split(
              R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"),
          form),
      with(
          "",
          split(
              R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"),
          R"({"type": "RobertaProcessing", "sep": ["e", 1], "cls": ["t", 2], "trim_offsets": true, "add_prefix_space": false})")};
}

TokenizerPointer byte_fallback_tokenizer() {
  Bpe bpe;
  for (const char* token : {"<unk>", "<s>", "</s>"}) bpe.add(token);
  for (int byte = 0; byte < 256; ++byte) bpe.add(byte_piece(byte));
  for (const char* word : kWords) bpe.add_word(characters(marked(word)));
  return load(
      bpe.json(R"(, "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true)"),
      R"("normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
      "decoder": {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})");
}

std::vector<TokenizerPointer> word_piece_tokenizers() {
  std::map<std::string, int32_t> ids;
  const auto add = [&](const std::string& token) {
    ids.emplace(token, static_cast<int32_t>(ids.size()));
  };
  for (const char* token : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) add(token);
  for (char c = '!'; c <= '~'; ++c) {
    add(std::string(1, c));
    add(std::string("##") + c);
  }
  for (const char* word : kWords) {
    if (word[0] != ' ') add(word);
    add(std::string("##") + word);
  }
  std::string vocabulary;
  for (const auto& [token, id] : ids) {
    vocabulary +=
        fmt::format("{}{}: {}", vocabulary.empty() ? "" : ", ", to_json_string(token), id);
  }
  const std::string model =
      fmt::format(R"({{"type": "WordPiece", "unk_token": "[UNK]", "vocab": {{{}}}}})", vocabulary);
  const std::string rest = fmt::format(
      R"("pre_tokenizer": {{"type": "BertPreTokenizer"}},
      "post_processor": {{"type": "BertProcessing", "sep": ["[SEP]", {}], "cls": ["[CLS]", {}]}},
      "decoder": {{"type": "WordPiece", "prefix": "##", "cleanup": false}},
      "added_tokens": [{{"id": {}, "content": "[MASK]", "special": true, "lstrip": true}}])",
      ids["[SEP]"], ids["[CLS]"], ids["[MASK]"]);
  const auto with = [&](const std::string& normalizer) {
    return load(model, fmt::format(R"("normalizer": {}, {})", normalizer, rest));
  };
  return {with(R"({"type": "BertNormalizer", "lowercase": true})"),
          with(R"({"type": "BertNormalizer", "lowercase": false, "strip_accents": true})"),
          with(R"({"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "StripAccents"},
                   {"type": "Lowercase"}]})")};
}

std::vector<TokenizerPointer> unigram_tokenizers() {
  const std::string model =
      fmt::format(R"({{"type": "Unigram", "unk_id": 0, "vocab": {}}})", unigram_vocabulary());
  const std::string metaspace =
      R"({"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"})";
  const std::string rest = fmt::format(
      R"("decoder": {}, "added_tokens": [{{"id": 1, "content": "<s>", "special": true}},
        {{"id": 2, "content": "</s>", "special": true, "rstrip": true}}],
      "post_processor": {{"type": "TemplateProcessing", "single": [{{"Sequence": {{"id": "A", "type_id": 0}}}},
        {{"SpecialToken": {{"id": "</s>", "type_id": 0}}}}], "pair": [{{"Sequence": {{"id": "A", "type_id": 0}}}},
        {{"SpecialToken": {{"id": "</s>", "type_id": 0}}}}, {{"Sequence": {{"id": "B", "type_id": 0}}}},
        {{"SpecialToken": {{"id": "</s>", "type_id": 0}}}}],
        "special_tokens": {{"</s>": {{"id": "</s>", "ids": [2], "tokens": ["</s>"]}}}}}})",
      metaspace);
  const auto with = [&](const std::string& normalizer, const std::string& pre_tokenizer) {
    return load(model, fmt::format(R"("normalizer": {}, "pre_tokenizer": {}, {})", normalizer,
                                   pre_tokenizer, rest));
  };
  const std::string spaces =
      R"({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, )";
  return {with(fmt::format(R"({{"type": "Precompiled", "precompiled_charsmap": "{}"}})",
                           tokenizer::to_base64(small_charsmap())),
               spaces + metaspace + "]}"),
          with(R"({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"},
                   {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
                   {"type": "Strip", "strip_left": false, "strip_right": true}]})",
               metaspace)};
}

std::vector<TokenizerPointer> sentence_piece_tokenizers() {
  std::vector<TokenizerPointer> all;
  for (const int algorithm : {1, 2}) {
    tokenizer::TestSentencePiece model;
    model.algorithm = algorithm;
    std::map<std::string, float> scores;
    for (const char* word : kWords) {
      float score = -20;
      std::string beginning;
      for (const std::string& character : characters(marked(word))) {
        scores.emplace(character, -30);
        scores.emplace(beginning += character, score += 1);
      }
    }
    for (const auto& [text, score] : scores) model.pieces.push_back({text, score});
    model.pieces.push_back({"<tool>", 0, 4});
    model.normalizer = tokenizer::proto_bytes(2, small_charsmap());
    all.push_back(require_loaded(Tokenizer::from_sentence_piece(model.to_bytes(), "small")));
    for (int byte = 0; byte < 256; ++byte) model.pieces.push_back({byte_piece(byte), 0, 6});
    model.trainer = tokenizer::proto_integer(35, 1);
    model.normalizer = tokenizer::proto_integer(4, 0);  // spaces stay as they are
    all.push_back(require_loaded(Tokenizer::from_sentence_piece(model.to_bytes(), "small")));
  }
  return all;
}

}  // namespace tessera::fuzz
