#include "tokenizer/tokenizer_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>

#include "io/mapped_file.h"

namespace tessera::tokenizer {
namespace {

using Json = nlohmann::json;

constexpr size_t kFileLimit = size_t{1} << 30;

// An absent file is an empty object; so are members of the wrong kind, below.
Result<Json> read_object(const std::string& path) {
  const Result<std::string> text = read_file(path);
  if (!text.ok() && text.status().code() == StatusCode::kNotFound) return Json::object();
  if (!text.ok()) return text.status();
  TESSERA_ASSIGN_OR_RETURN(const JsonValue checked, JsonValue::parse(*text, path));
  if (!checked.is_object()) return checked.wrong("an object");
  return Json::parse(*text);
}

// A token is given by its text or by an object that has it as "content".
std::optional<std::string> token_text(const Json& json) {
  if (json.is_string()) return json.get<std::string>();
  if (json.is_object() && json.contains("content") && json["content"].is_string()) {
    return json["content"].get<std::string>();
  }
  return std::nullopt;
}

std::optional<std::string> member(const Json& json, const char* key) {
  return json.contains(key) ? token_text(json[key]) : std::nullopt;
}

std::string family_of(const Json& tokenizer_config, const Json& config) {
  std::string name = member(tokenizer_config, "tokenizer_class").value_or("");
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  constexpr std::string_view kEnd = "Tokenizer";
  if (name.ends_with(kEnd) && name != "PreTrainedTokenizer") {
    name.resize(name.size() - kEnd.size());
    std::transform(name.begin(), name.end(), name.begin(), [](char c) {
      return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    return name;
  }
  return member(config, "model_type").value_or("");
}

constexpr std::array kRoles = {"bos_token", "eos_token", "unk_token", "sep_token",
                               "pad_token", "cls_token", "mask_token"};

template <size_t n>
bool is_one_of(std::string_view name, const std::array<std::string_view, n>& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Json sequence(const char* id, int type) { return {{"Sequence", {{"id", id}, {"type_id", type}}}}; }

Json special_item(const std::string& token, int type) {
  return {{"SpecialToken", {{"id", token}, {"type_id", type}}}};
}

}  // namespace

struct TokenizerConfig::Files {
  Json config = Json::object();  // tokenizer_config.json
  Json special = Json::object();
  Json added = Json::object();
};

Result<std::string> read_file(const std::string& path) {
  Result<std::string> text = read_text_file(path, kFileLimit);
  if (text.ok() || text.status().code() != StatusCode::kNotFound) return text;
  return not_found(fmt::format("expected a tokenizer in {}, found no such file", path));
}

Result<TokenizerConfig> TokenizerConfig::read(const std::string& directory) {
  auto files = std::make_shared<Files>();
  TESSERA_ASSIGN_OR_RETURN(files->config, read_object(directory + "/tokenizer_config.json"));
  TESSERA_ASSIGN_OR_RETURN(files->special, read_object(directory + "/special_tokens_map.json"));
  TESSERA_ASSIGN_OR_RETURN(files->added, read_object(directory + "/added_tokens.json"));
  TESSERA_ASSIGN_OR_RETURN(const Json config, read_object(directory + "/config.json"));
  TokenizerConfig made;
  made.directory_ = directory;
  made.family_ = family_of(files->config, config);
  made.model_type_ = member(config, "model_type").value_or("");
  for (const char* role : kRoles) {
    std::optional<std::string> text = member(files->config, role);
    if (!text.has_value()) text = member(files->special, role);
    if (text.has_value()) made.special_[role] = *text;
  }
  made.files_ = std::move(files);
  return made;
}

std::string TokenizerConfig::special(const std::string& role, const std::string& otherwise) const {
  const auto found = special_.find(role);
  return found == special_.end() ? otherwise : found->second;
}

bool TokenizerConfig::is_xlm_roberta() const {
  // By the class of the tokenizer or the model_type.
  return family_ == "xlmroberta" || family_ == "xlm-roberta";
}

bool TokenizerConfig::has_flag(std::string_view key) const {
  if (files_ == nullptr) return false;
  const auto found = files_->config.find(key);
  return found != files_->config.end() && found->is_boolean();
}

bool TokenizerConfig::flag(std::string_view key, bool fallback) const {
  return has_flag(key) ? files_->config.find(key)->get<bool>() : fallback;
}

std::optional<std::string> TokenizerConfig::text(const char* key) const {
  if (files_ == nullptr) return std::nullopt;
  const auto found = files_->config.find(key);
  if (found == files_->config.end() || !found->is_string()) return std::nullopt;
  return found->get<std::string>();
}

std::string TokenizerConfig::class_name() const {
  std::string name = text("tokenizer_class").value_or("");
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  return name;
}

bool TokenizerConfig::is_bert() const {
  static constexpr std::array<std::string_view, 4> kClasses = {
      "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer"};
  static constexpr std::array<std::string_view, 4> kFamilies = {"bert", "distilbert", "electra",
                                                                "mobilebert"};
  const std::string name = class_name();
  return name.empty() ? is_one_of(family_, kFamilies) : is_one_of(name, kClasses);
}

bool TokenizerConfig::is_roberta() const {
  const std::string name = class_name();
  return name.empty() ? family_ == "roberta" : name == "RobertaTokenizer";
}

Result<JsonValue> TokenizerConfig::bert_steps() const {
  const bool is_said = !class_name().empty() || has_flag("do_lower_case") ||
                       has_flag("strip_accents") || has_flag("tokenize_chinese_chars");
  Json steps;
  if (is_bert() && is_said) {
    Json normalizer = {{"type", "BertNormalizer"},
                       {"clean_text", true},
                       {"handle_chinese_chars", flag("tokenize_chinese_chars", true)},
                       {"lowercase", flag("do_lower_case", true)}};
    if (has_flag("strip_accents")) normalizer["strip_accents"] = flag("strip_accents", true);
    steps = {{"normalizer", normalizer}, {"pre_tokenizer", {{"type", "BertPreTokenizer"}}}};
  }
  return JsonValue::parse(steps.dump(), directory_ + "/tokenizer_config.json");
}

Result<JsonValue> TokenizerConfig::byte_level_step(std::string_view type,
                                                   const JsonValue& own) const {
  constexpr const char* kFlag = "add_prefix_space";
  const std::string name = class_name();
  const bool is_gpt2 = name.empty() ? family_ == "gpt2" : name == "GPT2Tokenizer";
  const bool is_said = !name.empty() || has_flag(kFlag);
  // transformers takes tokenizer.json as it is for every class of GPT-BigCode.
  if (type != "BPE" || !(is_gpt2 || is_roberta()) || !is_said || model_type_ == "gpt_bigcode") {
    return own;
  }
  std::string kind;
  bool use_regex = true;
  if (!own.is_object()) return own;
  TESSERA_RETURN_IF_ERROR(own.read("type", kind));
  TESSERA_RETURN_IF_ERROR(own.read("use_regex", use_regex));
  if (kind != "ByteLevel") return own;
  const Json step = {{"type", kind}, {kFlag, flag(kFlag, false)}, {"use_regex", use_regex}};
  return JsonValue::parse(step.dump(), directory_ + "/tokenizer_config.json");
}

Result<JsonValue> TokenizerConfig::begin_and_end(
    std::string_view type, const std::function<int32_t(const std::string&)>& find) const {
  const bool bert = type == "WordPiece" && is_bert(), roberta = type == "BPE" && is_roberta();
  const std::string place = directory_ + "/tokenizer_config.json";
  Json processor;
  if ((bert || roberta) && (special_.contains("cls_token") || special_.contains("sep_token"))) {
    processor = {{"type", bert ? "BertProcessing" : "RobertaProcessing"},
                 {"trim_offsets", flag("trim_offsets", true)},
                 {"add_prefix_space", flag("add_prefix_space", false)}};
    for (const auto& [key, role, usual] :
         {std::tuple("cls", "cls_token", bert ? "[CLS]" : "<s>"),
          std::tuple("sep", "sep_token", bert ? "[SEP]" : "</s>")}) {
      const std::string token = special(role, usual);
      const int32_t id = find(token);
      if (id == kNoToken) {
        return invalid_input(fmt::format("{}: {}: expected a token of tokenizer.json, found \"{}\"",
                                         place, role, token));
      }
      processor[key] = {token, id};
    }
  }
  return JsonValue::parse(processor.dump(-1, ' ', false, Json::error_handler_t::replace), place);
}

Status TokenizerConfig::check_unknown_token(const JsonValue& model) const {
  std::string own = "[UNK]";
  TESSERA_RETURN_IF_ERROR(model.read("unk_token", own));
  const std::string found = special("unk_token", own);
  if (found == own || !is_bert()) return {};
  return unsupported(
      fmt::format("{}/tokenizer_config.json: unk_token: expected \"{}\", as tokenizer.json has it, "
                  "found \"{}\"",
                  directory_, own, found));
}

Result<JsonValue> TokenizerConfig::more_tokens() const {
  Json list;
  const auto add = [&](const Json& token) {
    const std::optional<std::string> text = token_text(token);
    if (!text) return;
    Json entry = token.is_object() ? token : Json::object();
    entry.erase("id");
    entry["content"] = *text;
    if (!entry.contains("special")) entry["special"] = true;
    list.push_back(std::move(entry));
  };
  if (files_ != nullptr) {
    std::map<int64_t, Json> by_id;
    const auto decoder = files_->config.find("added_tokens_decoder");
    if (decoder != files_->config.end() && decoder->is_object()) {
      for (const auto& [key, token] : decoder->items()) {
        if (key.size() > 9 || key.find_first_not_of("0123456789") != std::string::npos) continue;
        by_id[key.empty() ? 0 : std::stoll(key)] = token;
      }
    } else {
      for (const auto& [text, id] : files_->added.items()) {
        if (id.is_number_integer())
          by_id[id.get<int64_t>()] = {{"content", text}, {"special", false}};
      }
    }
    for (const auto& [id, token] : by_id) add(token);
    for (const char* role : kRoles) {
      if (const auto found = special_.find(role); found != special_.end()) add(found->second);
    }
    for (const Json* file : {&files_->config, &files_->special}) {
      for (const char* key : {"extra_special_tokens", "additional_special_tokens"}) {
        const auto more = file->find(key);
        if (more == file->end() || !more->is_structured()) continue;
        for (const Json& token : *more) add(token);
      }
    }
  }
  return JsonValue::parse(list.dump(-1, ' ', false, Json::error_handler_t::replace),
                          directory_ + " (tokens beside tokenizer.json)");
}

int32_t TokenizerConfig::id_of(const std::string& token, const Vocabulary& vocabulary) const {
  if (files_ != nullptr) {
    const auto found = files_->added.find(token);
    if (found != files_->added.end() && found->is_number_integer()) {
      const auto id = found->get<int64_t>();
      if (id >= 0 && id <= Vocabulary::kMaxId) return static_cast<int32_t>(id);
    }
  }
  return vocabulary.find(token);
}

std::string TokenizerConfig::added_tokens(const Vocabulary& vocabulary) const {
  Json list = Json::array();
  const Json none = Json::object();
  const Json& config = files_ == nullptr ? none : files_->config;
  if (config.contains("added_tokens_decoder") && config["added_tokens_decoder"].is_object()) {
    for (const auto& [key, value] : config["added_tokens_decoder"].items()) {
      if (!value.is_object()) continue;
      Json token = value;
      int64_t id = -1;
      const bool is_number = key.size() <= 9 && !key.empty() &&
                             key.find_first_not_of("0123456789") == std::string::npos;
      if (is_number) id = std::stoll(key);
      token["id"] = id;
      list.push_back(std::move(token));
    }
  } else {
    const auto add = [&](const std::string& text, bool special) {
      const int32_t id = id_of(text, vocabulary);
      if (id == kNoToken || text.empty()) return;
      Json token = {{"id", id}, {"content", text}, {"special", special}, {"normalized", !special}};
      // RoBERTa's mask token takes the space before it.
      token["lstrip"] = text == "<mask>" && text == this->special("mask_token", "");
      list.push_back(std::move(token));
    };
    if (files_ != nullptr) {
      for (const auto& [text, id] : files_->added.items()) add(text, false);
    }
    for (const auto& [role, text] : special_) add(text, true);
    for (const Json* file : {&config, files_ == nullptr ? &none : &files_->special}) {
      const auto more = file->find("additional_special_tokens");
      if (more == file->end() || !more->is_array()) continue;
      for (const Json& token : *more) add(token_text(token).value_or(""), true);
    }
  }
  return list.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<JsonValue> TokenizerConfig::sentence_piece_template(const Vocabulary& vocabulary) const {
  static constexpr std::array<std::string_view, 8> kBegun = {
      "llama", "codellama", "mistral", "mixtral", "gemma", "gemma2", "gemma3", "gemma3_text"};
  static constexpr std::array<std::string_view, 4> kEnded = {"t5", "mt5", "umt5", "pegasus"};
  static constexpr std::array<std::string_view, 3> kBracketed = {"albert", "debertav2",
                                                                 "deberta-v2"};
  const std::string place = directory_ + " (its special tokens)";
  Json tokens = Json::object();
  Status missing;
  const auto text_of = [&](const std::string& role, const std::string& fallback) {
    const std::string text = special(role, fallback);
    const int32_t id = id_of(text, vocabulary);
    if (id == kNoToken) {
      missing = invalid_input(
          fmt::format("{}: expected a token \"{}\" in the vocabulary, found none", place, text));
    }
    tokens[text] = {{"id", text}, {"ids", {id}}};
    return text;
  };
  Json single = Json::array();
  Json pair = Json::array();
  if (is_one_of(family_, kBracketed)) {
    const std::string cls = text_of("cls_token", "[CLS]");
    const std::string sep = text_of("sep_token", "[SEP]");
    single = {special_item(cls, 0), sequence("A", 0), special_item(sep, 0)};
    pair = single;
    pair.push_back(sequence("B", 1));
    pair.push_back(special_item(sep, 1));
  } else if (is_xlm_roberta()) {
    const std::string cls = text_of("cls_token", "<s>");
    const std::string sep = text_of("sep_token", "</s>");
    single = {special_item(cls, 0), sequence("A", 0), special_item(sep, 0)};
    pair = single;
    pair.insert(pair.end(), {special_item(sep, 0), sequence("B", 0), special_item(sep, 0)});
  } else {
    const bool begun = flag("add_bos_token", is_one_of(family_, kBegun));
    const bool ended = flag("add_eos_token", is_one_of(family_, kEnded));
    const std::string bos = begun ? text_of("bos_token", "<s>") : "";
    const std::string eos = ended ? text_of("eos_token", "</s>") : "";
    const int second = is_one_of(family_, kEnded) ? 0 : 1;
    const auto add = [&](Json& list, const char* id, int type) {
      if (begun) list.push_back(special_item(bos, type));
      list.push_back(sequence(id, type));
      if (ended) list.push_back(special_item(eos, type));
    };
    add(single, "A", 0);
    pair = single;
    add(pair, "B", second);
  }
  TESSERA_RETURN_IF_ERROR(missing);
  const Json processor = {{"type", "TemplateProcessing"},
                          {"single", single},
                          {"pair", pair},
                          {"special_tokens", tokens}};
  return JsonValue::parse(processor.dump(-1, ' ', false, Json::error_handler_t::replace), place);
}

}  // namespace tessera::tokenizer
