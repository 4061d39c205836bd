#include "tokenizer/pipeline.h"

#include <fmt/format.h>

#include <algorithm>

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

void assume_xlm_roberta_tokens(TokenizerConfig& config) {
  constexpr std::pair<const char*, const char*> kTokens[] = {
      {"bos_token", "<s>"},    {"cls_token", "<s>"},   {"eos_token", "</s>"},
      {"sep_token", "</s>"},   {"unk_token", "<unk>"}, {"pad_token", "<pad>"},
      {"mask_token", "<mask>"}};
  for (const auto& [role, text] : kTokens) config.assume_special(role, text);
}

// Some families give the pieces of these files other ids, or change the text before: those are
// refused, as a tokenizer.json says it all.
Status check_family(std::string_view name, const std::string& family, const std::string& path) {
  const auto one_of = [&](std::initializer_list<std::string_view> families) {
    return std::find(families.begin(), families.end(), family) != families.end();
  };
  const bool known = name == "tokenizer.model" ||
                     (name == "spiece.model" && one_of({"", "t5", "mt5", "umt5"})) ||
                     (name == "sentencepiece.bpe.model" && one_of({"xlmroberta", "xlm-roberta"}));
  if (known) return {};
  return unsupported(
      fmt::format("{}: a {} of {} is not supported without a tokenizer.json, expected {}", path,
                  name, family.empty() ? "no family" : fmt::format("the family \"{}\"", family),
                  name == "spiece.model" ? "T5" : "XLM-RoBERTa"));
}

}  // namespace

Result<Pipeline> make_pipeline(const JsonValue& json, const TokenizerConfig& config) {
  if (!json.is_object()) return json.wrong("an object");
  Pipeline made;
  TESSERA_ASSIGN_OR_RETURN(const std::string type, model_type(json["model"]));
  TESSERA_ASSIGN_OR_RETURN(const JsonValue steps, config.bert_steps());
  const JsonValue& text_steps = type == "WordPiece" && steps.is_object() ? steps : json;
  TESSERA_RETURN_IF_ERROR(make_normalizers(text_steps["normalizer"], made.normalizers));
  const ByteSpelling allowed = type == "BPE" ? ByteSpelling::kRawBytes : ByteSpelling::kCharacters;
  TESSERA_ASSIGN_OR_RETURN(const JsonValue pre_tokenizer,
                           config.byte_level_step(type, text_steps["pre_tokenizer"]));
  TESSERA_ASSIGN_OR_RETURN(const ByteSpelling spelling,
                           make_pre_tokenizers(pre_tokenizer, allowed, made.pre_tokenizers));
  TESSERA_RETURN_IF_ERROR(make_decoders(json["decoder"], made.decoders));
  made.has_decoder = !json["decoder"].is_null();
  if (type == "WordPiece") TESSERA_RETURN_IF_ERROR(config.check_unknown_token(json["model"]));
  TESSERA_ASSIGN_OR_RETURN(made.model, make_model(json["model"], spelling));
  TESSERA_ASSIGN_OR_RETURN(const JsonValue more, config.more_tokens());
  TESSERA_ASSIGN_OR_RETURN(
      made.added, AddedTokens::from_json(json["added_tokens"], made.model->vocabulary(), more));
  if (config.flag("split_special_tokens", false)) made.added.read_special_as_text();
  const auto find = [&](const std::string& token) {
    const int32_t id = made.added.find(token);
    return id == kNoToken ? made.model->vocabulary().find(token) : id;
  };
  TESSERA_ASSIGN_OR_RETURN(const JsonValue around, config.begin_and_end(type, find));
  const JsonValue post_processor = around.is_null() ? json["post_processor"] : around;
  TESSERA_ASSIGN_OR_RETURN(made.special_tokens, Template::from_json(post_processor));
  TESSERA_RETURN_IF_ERROR(check_special_tokens(made, post_processor));
  const JsonValue direction = json["truncation"]["direction"];
  const std::string side =
      config.text("truncation_side")
          .value_or(direction.is_string() ? std::string(*direction.string()) : "");
  if (side == "left" || side == "Left") made.truncation_side = TruncationSide::kLeft;
  return made;
}

Result<Pipeline> make_sentence_piece_pipeline(std::string_view bytes, TokenizerConfig config,
                                              const std::string& source) {
  TESSERA_ASSIGN_OR_RETURN(SentencePieceModel file, SentencePieceModel::parse(bytes, source));
  if (config.is_xlm_roberta()) {
    if (const Status status = file.reorder_as_fairseq(); !status.ok()) {
      return Status(status.code(), fmt::format("{}: {}", source, status.message()));
    }
    assume_xlm_roberta_tokens(config);
  }
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
  if (config.flag("split_special_tokens", false)) made.added.read_special_as_text();
  TESSERA_ASSIGN_OR_RETURN(const JsonValue post_processor,
                           config.sentence_piece_template(made.model->vocabulary()));
  TESSERA_ASSIGN_OR_RETURN(made.special_tokens, Template::from_json(post_processor));
  TESSERA_RETURN_IF_ERROR(check_special_tokens(made, post_processor));
  return made;
}

Result<Pipeline> make_sentence_piece_pipeline(const std::string& directory,
                                              const TokenizerConfig& config) {
  for (const char* name : {"tokenizer.model", "spiece.model", "sentencepiece.bpe.model"}) {
    const std::string path = directory + "/" + name;
    const Result<std::string> bytes = read_file(path);
    if (!bytes.ok() && bytes.status().code() == StatusCode::kNotFound) continue;
    if (!bytes.ok()) return bytes.status();
    TESSERA_RETURN_IF_ERROR(check_family(name, config.family(), path));
    return make_sentence_piece_pipeline(*bytes, config, path);
  }
  return not_found("no SentencePiece model");
}

}  // namespace tessera::tokenizer
