#include "tokenizer/tokenizer.h"

#include "tokenizer/pipeline.h"
#include "tokenizer/pipeline_tokenizer.h"

namespace tessera {

using Made = Result<std::shared_ptr<const Tokenizer>>;

Made Tokenizer::open(const std::string& directory) {
  return tokenizer::guarded(directory, [&]() -> Made {
    const std::string json_path = directory + "/tokenizer.json";
    const Result<std::string> json = tokenizer::read_file(json_path);
    if (json.ok()) return from_json(*json, json_path);
    if (json.status().code() != StatusCode::kNotFound) return json.status();
    TESSERA_ASSIGN_OR_RETURN(auto config, tokenizer::TokenizerConfig::read(directory));
    const std::string model_path = directory + "/tokenizer.model";
    const Result<std::string> model = tokenizer::read_file(model_path);
    if (model.ok()) {
      return tokenizer::PipelineTokenizer::make(
          tokenizer::make_sentence_piece_pipeline(*model, config, model_path), model_path);
    }
    if (model.status().code() != StatusCode::kNotFound) return model.status();
    return tokenizer::PipelineTokenizer::make(
        tokenizer::make_vocabulary_pipeline(directory, std::move(config)), directory);
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
