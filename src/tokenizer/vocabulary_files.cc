#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "tokenizer/pipeline.h"
#include "tokenizer/unicode.h"

// Vocabularies of before tokenizer.json: each is put into the tokenizer.json that transformers
// would make of it, and read as that.
namespace tessera::tokenizer {
namespace {

using Json = nlohmann::json;

Status check_utf8(const std::string& text, const std::string& path) {
  const size_t bad = find_invalid_utf8(text);
  if (bad == std::string::npos) return {};
  return invalid_input(fmt::format("{}: expected UTF-8, found byte 0x{:02X} at offset {}", path,
                                   static_cast<uint8_t>(text[bad]), bad));
}

// The lines, without their ends; what follows the last end of a line is one more unless empty.
std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

bool is_one_of(const std::string& name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Result<Pipeline> read_document(const Json& document, const std::string& source) {
  TESSERA_ASSIGN_OR_RETURN(
      const JsonValue json,
      JsonValue::parse(document.dump(-1, ' ', false, Json::error_handler_t::replace), source));
  return make_pipeline(json);
}

Result<int32_t> require_token(const std::string& token, const TokenizerConfig& config,
                              const Vocabulary& vocabulary, const std::string& path) {
  const int32_t id = config.id_of(token, vocabulary);
  if (id != kNoToken) return id;
  return invalid_input(
      fmt::format("{}: expected the special token \"{}\", found none such", path, token));
}

// {"type": type, "cls": ["[CLS]", 101], "sep": ["[SEP]", 102]}
Result<Json> bracket_processor(const std::string& type, const TokenizerConfig& config,
                               const Vocabulary& vocabulary, const std::string& path) {
  Json made = {{"type", type}};
  for (const char* name : {"cls", "sep"}) {
    const std::string token = config.special(std::string(name) + "_token", "");
    TESSERA_ASSIGN_OR_RETURN(const int32_t id, require_token(token, config, vocabulary, path));
    made[name] = {token, id};
  }
  return made;
}

// BERT: WordPiece over words and punctuation. The token of a line has the line's number, from 0.
Result<Pipeline> read_bert(const std::string& path, TokenizerConfig config) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  TESSERA_RETURN_IF_ERROR(check_utf8(text, path));
  if (!is_one_of(config.family(), {"", "bert", "distilbert", "electra", "mobilebert", "convbert",
                                   "squeezebert", "layoutlm", "lxmert", "retribert"})) {
    return unsupported(fmt::format(
        "{}: a vocab.txt of the family \"{}\" is not supported, expected BERT or one of its kind",
        path, config.family()));
  }
  for (const char* name : {"unk", "sep", "pad", "cls", "mask"}) {
    std::string token = fmt::format("[{}]", name);
    std::transform(token.begin(), token.end(), token.begin(),
                   [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
    config.assume_special(std::string(name) + "_token", token);
  }
  const std::vector<std::string_view> lines = lines_of(text);
  TESSERA_ASSIGN_OR_RETURN(const Vocabulary vocabulary, Vocabulary::from_list(lines, path));
  Json ids = Json::object();
  for (size_t id = 0; id < lines.size(); ++id) ids[std::string(lines[id])] = id;
  Json normalizer = {{"type", "BertNormalizer"},
                     {"lowercase", config.flag("do_lower_case", true)},
                     {"handle_chinese_chars", config.flag("tokenize_chinese_chars", true)}};
  if (config.has_flag("strip_accents")) {
    normalizer["strip_accents"] = config.flag("strip_accents", true);
  }
  TESSERA_ASSIGN_OR_RETURN(const Json processor,
                           bracket_processor("BertProcessing", config, vocabulary, path));
  const Json document = {
      {"normalizer", normalizer},
      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
      {"post_processor", processor},
      {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}},
      {"added_tokens", Json::parse(config.added_tokens(vocabulary))},
      {"model",
       {{"type", "WordPiece"}, {"unk_token", config.special("unk_token", "")}, {"vocab", ids}}}};
  return read_document(document, path);
}

// ["a", "b"] of every line "a b".
Result<Json> read_merges(const std::string& text, const std::string& path) {
  TESSERA_RETURN_IF_ERROR(check_utf8(text, path));
  Json merges = Json::array();
  size_t number = 0;
  for (const std::string_view line : lines_of(text)) {
    ++number;
    if (line.empty() || line.starts_with("#version")) continue;
    const size_t space = line.find(' ');
    if (space == 0 || space >= line.size() - 1 || space != line.rfind(' ')) {
      return invalid_input(
          fmt::format("{}: expected two tokens with a space between, found \"{}\" on line {}", path,
                      line.substr(0, 40), number));
    }
    merges.push_back({line.substr(0, space), line.substr(space + 1)});
  }
  return merges;
}

constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

enum class ByteLevelFamily { kGpt2, kRoberta, kQwen2 };

Result<ByteLevelFamily> byte_level_family(const std::string& family, const Vocabulary& vocabulary,
                                          const std::string& path) {
  const auto has = [&](std::string_view token) { return vocabulary.find(token) != kNoToken; };
  if (family.empty()) {
    return has("<s>") && has("</s>") && has("<mask>") ? ByteLevelFamily::kRoberta
                                                      : ByteLevelFamily::kGpt2;
  }
  if (is_one_of(family, {"roberta", "longformer", "bart", "led"})) return ByteLevelFamily::kRoberta;
  if (is_one_of(family, {"gpt2", "gpt_bigcode", "gpt_neo", "gptj", "opt"})) {
    return ByteLevelFamily::kGpt2;
  }
  if (is_one_of(family, {"qwen2", "qwen2_moe", "qwen3", "qwen3_moe"})) {
    return ByteLevelFamily::kQwen2;
  }
  return unsupported(fmt::format(
      "{}: vocab.json and merges.txt of the family \"{}\" are not supported, expected GPT-2, "
      "RoBERTa or Qwen2",
      path, family));
}

void assume_special_tokens(ByteLevelFamily family, TokenizerConfig& config) {
  if (family == ByteLevelFamily::kRoberta) {
    config.assume_special("bos_token", "<s>");
    config.assume_special("cls_token", "<s>");
    config.assume_special("eos_token", "</s>");
    config.assume_special("sep_token", "</s>");
    config.assume_special("unk_token", "<unk>");
    config.assume_special("pad_token", "<pad>");
    config.assume_special("mask_token", "<mask>");
  } else {
    config.assume_special("bos_token", "<|endoftext|>");
    config.assume_special("eos_token", "<|endoftext|>");
    config.assume_special("unk_token", "<|endoftext|>");
  }
}

Result<Json> byte_level_processor(ByteLevelFamily family, const TokenizerConfig& config,
                                  const Vocabulary& vocabulary, const std::string& path) {
  if (family == ByteLevelFamily::kRoberta) {
    return bracket_processor("RobertaProcessing", config, vocabulary, path);
  }
  if (!config.flag("add_bos_token", false)) return Json();
  const std::string bos = config.special("bos_token", "");
  TESSERA_ASSIGN_OR_RETURN(const int32_t id, require_token(bos, config, vocabulary, path));
  const auto item = [](const char* kind, const std::string& name, int type) {
    return Json{{kind, {{"id", name}, {"type_id", type}}}};
  };
  const Json first = {item("SpecialToken", bos, 0), item("Sequence", "A", 0)};
  Json pair = first;
  pair.push_back(item("SpecialToken", bos, 1));
  pair.push_back(item("Sequence", "B", 1));
  return Json{{"type", "TemplateProcessing"},
              {"single", first},
              {"pair", pair},
              {"special_tokens", {{bos, {{"id", bos}, {"ids", {id}}}}}}};
}

// Byte-level BPE.
Result<Pipeline> read_byte_level(const std::string& directory, const std::string& vocab,
                                 TokenizerConfig config) {
  const std::string vocab_path = directory + "/vocab.json";
  const std::string merges_path = directory + "/merges.txt";
  TESSERA_ASSIGN_OR_RETURN(const JsonValue checked, JsonValue::parse(vocab, vocab_path));
  TESSERA_ASSIGN_OR_RETURN(const Vocabulary vocabulary, Vocabulary::from_json(checked));
  TESSERA_ASSIGN_OR_RETURN(const std::string merges_text, read_file(merges_path));
  TESSERA_ASSIGN_OR_RETURN(const Json merges, read_merges(merges_text, merges_path));
  TESSERA_ASSIGN_OR_RETURN(const ByteLevelFamily family,
                           byte_level_family(config.family(), vocabulary, vocab_path));
  assume_special_tokens(family, config);
  TESSERA_ASSIGN_OR_RETURN(const Json processor,
                           byte_level_processor(family, config, vocabulary, vocab_path));
  Json pre_tokenizer = {{"type", "ByteLevel"},
                        {"add_prefix_space", config.flag("add_prefix_space", false)}};
  Json normalizer;
  if (family == ByteLevelFamily::kQwen2) {
    normalizer = {{"type", "NFC"}};
    pre_tokenizer["use_regex"] = false;
    const Json split = {{"type", "Split"},
                        {"pattern", {{"Regex", kQwen2Pattern}}},
                        {"behavior", "Isolated"},
                        {"invert", false}};
    pre_tokenizer = {{"type", "Sequence"}, {"pretokenizers", {split, pre_tokenizer}}};
  }
  const Json document = {{"normalizer", normalizer},
                         {"pre_tokenizer", pre_tokenizer},
                         {"post_processor", processor},
                         {"decoder", {{"type", "ByteLevel"}}},
                         {"added_tokens", Json::parse(config.added_tokens(vocabulary))}};
  // The vocabulary goes in as it stands: it is by far the most of the text.
  std::string text = document.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.pop_back();
  text +=
      R"(, "model": {"type": "BPE", "merges": )" + merges.dump() + R"(, "vocab": )" + vocab + "}}";
  TESSERA_ASSIGN_OR_RETURN(const JsonValue json,
                           JsonValue::parse(text, directory + " (vocab.json, merges.txt)"));
  return make_pipeline(json);
}

}  // namespace

Result<Pipeline> make_vocabulary_pipeline(const std::string& directory, TokenizerConfig config) {
  const Result<std::string> vocab = read_file(directory + "/vocab.json");
  if (vocab.ok()) return read_byte_level(directory, *vocab, std::move(config));
  if (vocab.status().code() != StatusCode::kNotFound) return vocab.status();
  Result<Pipeline> bert = read_bert(directory + "/vocab.txt", std::move(config));
  if (bert.ok() || bert.status().code() != StatusCode::kNotFound) return bert;
  return not_found(
      fmt::format("expected a tokenizer in {} (tokenizer.json, a SentencePiece model, vocab.json "
                  "or vocab.txt), "
                  "found none of these",
                  directory));
}

}  // namespace tessera::tokenizer
