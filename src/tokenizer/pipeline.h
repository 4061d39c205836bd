#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tessera/tokenizer.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/components.h"
#include "tokenizer/template.h"
#include "tokenizer/tokenizer_config.h"

namespace tessera::tokenizer {

// All the steps of a tokenizer, whatever file they were read from.
struct Pipeline {
  std::string source;  // for messages
  std::vector<std::unique_ptr<Normalizer>> normalizers;
  std::vector<std::unique_ptr<PreTokenizer>> pre_tokenizers;
  std::unique_ptr<Model> model;
  Template special_tokens;
  std::vector<std::unique_ptr<Decoder>> decoders;
  bool has_decoder = false;  // else spaces stand between the tokens
  AddedTokens added;
  std::map<TokenRole, std::string> roles;  // those that the files name
  TruncationSide truncation_side = TruncationSide::kRight;
  std::vector<bool> is_control;  // by id (may be shorter): skipped with the special tokens

  int32_t vocabulary_size() const { return std::max(model->vocabulary().id_end(), added.id_end()); }
};

// tokenizer.json, with what the files beside it say.
Result<Pipeline> make_pipeline(const JsonValue& json, const TokenizerConfig& config = {});
// tokenizer.model; bytes need not outlive the result.
Result<Pipeline> make_sentence_piece_pipeline(std::string_view bytes, TokenizerConfig config,
                                              const std::string& source);
// Whichever of tokenizer.model, spiece.model and sentencepiece.bpe.model the directory has;
// kNotFound without any.
Result<Pipeline> make_sentence_piece_pipeline(const std::string& directory,
                                              const TokenizerConfig& config);

// vocab.json with merges.txt (GPT-2, RoBERTa, Qwen2) or vocab.txt (BERT), whichever the directory
// has; kNotFound without either.
Result<Pipeline> make_vocabulary_pipeline(const std::string& directory, TokenizerConfig config);

}  // namespace tessera::tokenizer
