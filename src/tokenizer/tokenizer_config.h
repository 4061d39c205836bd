#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "tokenizer/json_value.h"
#include "tokenizer/vocabulary.h"

namespace tessera::tokenizer {

// The whole file; kNotFound when there is none.
Result<std::string> read_file(const std::string& path);

// What stands beside a vocabulary that is no tokenizer.json: tokenizer_config.json,
// special_tokens_map.json, added_tokens.json and config.json. All may be absent.
class TokenizerConfig {
 public:
  static Result<TokenizerConfig> read(const std::string& directory);

  // "llama" for the tokenizer class LlamaTokenizer or LlamaTokenizerFast; where no class is named
  // the model_type of config.json; may be empty.
  const std::string& family() const { return family_; }
  // XLM-RoBERTa, whose SentencePiece model has other ids than the tokenizer.
  bool is_xlm_roberta() const;
  // The text of "cls_token" and such, as the files say or else as given.
  std::string special(const std::string& role, const std::string& otherwise) const;
  // What the family takes where the files do not say.
  void assume_special(const std::string& role, const std::string& text) {
    special_.try_emplace(role, text);
  }
  bool flag(std::string_view key, bool fallback) const;  // of tokenizer_config.json
  bool has_flag(std::string_view key) const;

  std::optional<std::string> text(const char* key) const;  // likewise

  // What stands beside a tokenizer.json and goes before it: "normalizer" and "pre_tokenizer" where
  // the class is BERT's, which makes both from flags of its own; else null.
  Result<JsonValue> bert_steps() const;
  // The same for "pre_tokenizer" of GPT-2's and RoBERTa's classes, which say themselves whether a
  // text begins with a space: `own` with that flag, or as it is. type: the model's.
  Result<JsonValue> byte_level_step(std::string_view type, const JsonValue& own) const;
  // And for "post_processor" of BERT's and RoBERTa's classes, whose cls_token and sep_token are
  // those of these files: null where the class or the files do not say. find: a token's id.
  Result<JsonValue> begin_and_end(std::string_view type,
                                  const std::function<int32_t(const std::string&)>& find) const;
  // Refuses an unknown token that BERT's classes would take and tokenizer.json does not have.
  Status check_unknown_token(const JsonValue& model) const;
  // Tokens that it may lack, in the order in which they get ids; null where there are none.
  Result<JsonValue> more_tokens() const;

  // What "added_tokens" of a tokenizer.json would say, as JSON text.
  std::string added_tokens(const Vocabulary& vocabulary) const;
  // The id of a special or other token, kNoToken when it has none.
  int32_t id_of(const std::string& token, const Vocabulary& vocabulary) const;
  // What its "post_processor" would say, for a tokenizer.model.
  Result<JsonValue> sentence_piece_template(const Vocabulary& vocabulary) const;

 private:
  struct Files;

  // tokenizer_class without "Fast", empty where none is named.
  std::string class_name() const;
  bool is_bert() const;
  bool is_roberta() const;

  std::shared_ptr<const Files> files_;
  std::string directory_;
  std::string family_;
  std::string model_type_;
  std::map<std::string, std::string> special_;
};

}  // namespace tessera::tokenizer
