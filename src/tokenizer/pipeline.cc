#include "tokenizer/pipeline.h"

#include <fmt/format.h>

#include "tokenizer/sentence_piece.h"

namespace tessera::tokenizer {
namespace {

// The ids of special tokens must be those of tokens.
Status check_special_tokens(const Pipeline& pipeline, const JsonValue& json) {
  if (pipeline.special_tokens.largest_id() < pipeline.vocabulary_size()) return {};
  return json.refuse(
      fmt::format("expected ids of special tokens below {}, the size of the vocabulary, found {}",
                  pipeline.vocabulary_size(), pipeline.special_tokens.largest_id()));
}

}  // namespace

Result<Pipeline> make_pipeline(const JsonValue& json) {
  if (!json.is_object()) return json.wrong("an object");
  Pipeline made;
  TESSERA_RETURN_IF_ERROR(make_normalizers(json["normalizer"], made.normalizers));
  TESSERA_ASSIGN_OR_RETURN(const std::string type, model_type(json["model"]));
  const ByteSpelling allowed = type == "BPE" ? ByteSpelling::kRawBytes : ByteSpelling::kCharacters;
  TESSERA_ASSIGN_OR_RETURN(
      const ByteSpelling spelling,
      make_pre_tokenizers(json["pre_tokenizer"], allowed, made.pre_tokenizers));
  TESSERA_RETURN_IF_ERROR(make_decoders(json["decoder"], made.decoders));
  made.has_decoder = !json["decoder"].is_null();
  TESSERA_ASSIGN_OR_RETURN(made.special_tokens, Template::from_json(json["post_processor"]));
  TESSERA_ASSIGN_OR_RETURN(made.model, make_model(json["model"], spelling));
  TESSERA_ASSIGN_OR_RETURN(made.added,
                           AddedTokens::from_json(json["added_tokens"], made.model->vocabulary()));
  TESSERA_RETURN_IF_ERROR(check_special_tokens(made, json["post_processor"]));
  return made;
}

Result<Pipeline> make_sentence_piece_pipeline(std::string_view bytes, const TokenizerConfig& config,
                                              const std::string& source) {
  TESSERA_ASSIGN_OR_RETURN(SentencePieceModel file, SentencePieceModel::parse(bytes, source));
  Pipeline made;
  TESSERA_ASSIGN_OR_RETURN(made.model, make_sentence_piece_model(file, source));
  for (const SentencePieceModel::Piece& piece : file.pieces) {
    made.is_control.push_back(piece.type == PieceType::kControl);
  }
  if (auto cutter = make_sentence_piece_cutter(file)) {
    made.pre_tokenizers.push_back(std::move(cutter));
  }
  made.decoders.push_back(make_sentence_piece_decoder(file));
  made.has_decoder = true;
  const DummyPrefix prefix =
      config.flag("legacy", true) ? DummyPrefix::kEveryStretch : DummyPrefix::kFirstStretch;
  made.normalizers.push_back(make_sentence_piece_normalizer(file, prefix));
  TESSERA_ASSIGN_OR_RETURN(
      const JsonValue added,
      JsonValue::parse(config.added_tokens(made.model->vocabulary()), source + " (added tokens)"));
  TESSERA_ASSIGN_OR_RETURN(made.added, AddedTokens::from_json(added, made.model->vocabulary()));
  TESSERA_ASSIGN_OR_RETURN(const JsonValue post_processor,
                           config.sentence_piece_template(made.model->vocabulary()));
  TESSERA_ASSIGN_OR_RETURN(made.special_tokens, Template::from_json(post_processor));
  TESSERA_RETURN_IF_ERROR(check_special_tokens(made, post_processor));
  return made;
}

}  // namespace tessera::tokenizer
