#include "tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <map>
#include <string>

#include "io/model_directory.h"
#include "tokenizer/pipeline.h"
#include "tokenizer/pipeline_tokenizer.h"

namespace tessera {
namespace {

std::map<TokenRole, std::string> named_roles(const tokenizer::TokenizerConfig& config) {
  std::map<TokenRole, std::string> roles;
  for (size_t i = 0; i < names_of(TokenRole{}).size(); ++i) {
    const auto role = static_cast<TokenRole>(i);
    std::string text = config.special(fmt::format("{}_token", name(role)), "");
    if (!text.empty()) roles[role] = std::move(text);
  }
  return roles;
}

}  // namespace

using Made = Result<std::shared_ptr<const Tokenizer>>;

Made Tokenizer::open(const std::string& name) {
  using tokenizer::PipelineTokenizer;
  return tokenizer::guarded(name, [&]() -> Made {
    TESSERA_ASSIGN_OR_RETURN(const ModelDirectory home, find_model(name));
    const std::string& directory = home.transformer;
    TESSERA_ASSIGN_OR_RETURN(auto config, tokenizer::TokenizerConfig::read(directory));
    const std::map<TokenRole, std::string> roles = named_roles(config);
    const std::string json_path = directory + "/tokenizer.json";
    const Result<std::string> json = tokenizer::read_file(json_path);
    if (json.ok()) {
      TESSERA_ASSIGN_OR_RETURN(const auto parsed, tokenizer::JsonValue::parse(*json, json_path));
      TESSERA_ASSIGN_OR_RETURN(auto pipeline, tokenizer::make_pipeline(parsed, config));
      pipeline.roles = roles;
      return PipelineTokenizer::make(std::move(pipeline), json_path);
    }
    if (json.status().code() != StatusCode::kNotFound) return json.status();
    auto pipeline = tokenizer::make_sentence_piece_pipeline(directory, config);
    if (!pipeline.ok() && pipeline.status().code() == StatusCode::kNotFound) {
      pipeline = tokenizer::make_vocabulary_pipeline(directory, std::move(config));
    }
    if (pipeline.ok()) pipeline->roles = roles;
    return PipelineTokenizer::make(std::move(pipeline), directory);
  });
}

Made Tokenizer::from_json(std::string_view json, std::string source) {
  return tokenizer::guarded(source, [&]() -> Made {
    TESSERA_ASSIGN_OR_RETURN(const auto parsed, tokenizer::JsonValue::parse(json, source));
    return tokenizer::PipelineTokenizer::make(tokenizer::make_pipeline(parsed), source);
  });
}

Made Tokenizer::from_sentence_piece(std::string_view bytes, std::string source) {
  return tokenizer::guarded(source, [&] {
    return tokenizer::PipelineTokenizer::make(
        tokenizer::make_sentence_piece_pipeline(bytes, {}, source), source);
  });
}

}  // namespace tessera
