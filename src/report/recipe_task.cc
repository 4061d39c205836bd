#include "report/recipe_task.h"

#include <fmt/format.h>

#include <filesystem>

#include "report/recipe.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostParameters = 64, kMostFiles = 1024, kMostLabels = 10000;
constexpr int64_t kMostColumns = 1 << 20;
constexpr int64_t kMostTokens = 1 << 24, kMostExamples = int64_t{1} << 40;

Result<std::string> parameter_name(const std::string& text, size_t open, const JsonAt& at) {
  const size_t close = text.find('}', open);
  if (close == std::string::npos) return at.wrong("a path whose \"{\" is followed by \"}\"");
  return text.substr(open + 1, close - open - 1);
}

Status read_integer(const JsonAt& object, const char* key, int32_t* value) {
  const std::optional<JsonAt> at = object.find(key);
  if (!at) return {};
  TESSERA_ASSIGN_OR_RETURN(const int64_t integer, at->integer(1, kMostTokens));
  *value = static_cast<int32_t>(integer);
  return {};
}

Status read_text(const JsonAt& object, const char* key, std::string* value) {
  TESSERA_ASSIGN_OR_RETURN(*value, object.text_or(key, *value));
  return {};
}

// Its name, or its number from 1.
Status read_column(const JsonAt& columns, const char* key, std::string* value) {
  const std::optional<JsonAt> at = columns.find(key);
  if (!at) return {};
  if (at->value().as<int64_t>() != nullptr) {
    TESSERA_ASSIGN_OR_RETURN(const int64_t number, at->integer(1, kMostColumns));
    *value = std::to_string(number);
    return {};
  }
  return read_text(columns, key, value);
}

// What the user's own data is: {"files": ..., "format": ..., "header": ..., "columns": {...}}.
Status read_data(const JsonAt& at, const RecipePaths& paths, DataFile& data) {
  TESSERA_RETURN_IF_ERROR(at.known({"files", "format", "header", "columns"}));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt files, at.need("files"));
  TESSERA_ASSIGN_OR_RETURN(data.paths, paths.path_list(files));
  const std::optional<JsonAt> format = at.find("format");
  if (format) {
    TESSERA_ASSIGN_OR_RETURN(data.format, format->one_of<DataFormat>());
  }
  const std::optional<JsonAt> header = at.find("header");
  if (header) {
    TESSERA_ASSIGN_OR_RETURN(const Truth truth, header->truth());
    data.header = truth == Truth::kYes ? HeaderRow::kFirstRow : HeaderRow::kNone;
  }
  const std::optional<JsonAt> columns = at.find("columns");
  if (!columns) return {};
  TESSERA_RETURN_IF_ERROR(columns->known({"text", "pair", "label", "score", "id"}));
  TESSERA_RETURN_IF_ERROR(read_column(*columns, "text", &data.columns.text));
  TESSERA_RETURN_IF_ERROR(read_column(*columns, "pair", &data.columns.pair));
  TESSERA_RETURN_IF_ERROR(read_column(*columns, "label", &data.columns.label));
  TESSERA_RETURN_IF_ERROR(read_column(*columns, "score", &data.columns.score));
  return read_column(*columns, "id", &data.columns.id);
}

Result<EvaluationTask> known_task(const JsonAt& at, const RecipePaths& paths) {
  TESSERA_ASSIGN_OR_RETURN(const JsonAt task, at.need("task"));
  std::vector<const char*> names;
  for (const NamedTask& each : named_tasks()) names.push_back(each.name.c_str());
  TESSERA_ASSIGN_OR_RETURN(const size_t which, task.one_of(names));
  TESSERA_ASSIGN_OR_RETURN(const JsonAt data, at.need("data"));
  TESSERA_ASSIGN_OR_RETURN(const std::string folder, paths.path(data));
  TESSERA_ASSIGN_OR_RETURN(const std::string split, at.text_or("split", "test"));
  Result<EvaluationTask> found = named_task(names[which], folder, split);
  if (found.ok()) return found;
  return at.failure(found.status().code(), found.status().message());
}

Result<EvaluationTask> own_task(const JsonAt& at, const RecipePaths& paths) {
  TESSERA_ASSIGN_OR_RETURN(const JsonAt kind, at.need("kind"));
  constexpr EvaluationKind kKinds[] = {EvaluationKind::kClassification, EvaluationKind::kSimilarity,
                                       EvaluationKind::kPerplexity, EvaluationKind::kAgreement,
                                       EvaluationKind::kQuestionAnswering};
  TESSERA_ASSIGN_OR_RETURN(const size_t which,
                           kind.one_of({"classification", "similarity", "perplexity", "agreement",
                                        "question-answering"}));
  EvaluationTask task;
  task.kind = kKinds[which];
  TESSERA_ASSIGN_OR_RETURN(task.name, kind.text());
  TESSERA_ASSIGN_OR_RETURN(const JsonAt data, at.need("data"));
  TESSERA_RETURN_IF_ERROR(read_data(data, paths, task.data));
  for (const auto& [key, file] : {std::pair{"train", &task.train}, std::pair{"dev", &task.dev}}) {
    const std::optional<JsonAt> member = at.find(key);
    if (member) TESSERA_RETURN_IF_ERROR(read_data(*member, paths, *file));
  }
  const std::optional<JsonAt> labels = at.find("labels");
  if (labels) {
    TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, labels->list(2, kMostLabels));
    for (const JsonAt& each : list) {
      TESSERA_ASSIGN_OR_RETURN(std::string label, each.text());
      task.labels.push_back(std::move(label));
    }
  }
  TESSERA_RETURN_IF_ERROR(read_text(at, "positive_label", &task.positive_label));
  return task;
}

// What may stand in both kinds of entries.
Status read_options(const JsonAt& at, RecipeTask& recipe) {
  EvaluationTask& task = recipe.task;
  TESSERA_ASSIGN_OR_RETURN(task.max_examples,
                           at.integer_or("max_examples", task.max_examples, 1, kMostExamples));
  const std::optional<JsonAt> bad = at.find("bad_data");
  if (bad) {
    TESSERA_ASSIGN_OR_RETURN(task.on_bad_data, bad->one_of<OnBadData>());
  }
  const std::optional<JsonAt> cut = at.find("long_text");
  if (cut) {
    TESSERA_ASSIGN_OR_RETURN(task.on_long_text, cut->one_of<OnLongText>());
  }
  const std::optional<JsonAt> probe = at.find("probe");
  if (probe) {
    if (task.kind != EvaluationKind::kClassification)
      return probe->wrong("a probe with classification only");
    TESSERA_ASSIGN_OR_RETURN(task.probe.model, probe->one_of<ProbeModel>());
  }
  TESSERA_RETURN_IF_ERROR(read_integer(at, "window_tokens", &task.perplexity.window_tokens));
  task.agreement.window_tokens = task.perplexity.window_tokens;
  TESSERA_RETURN_IF_ERROR(read_integer(at, "stride_tokens", &task.perplexity.stride_tokens));
  TESSERA_ASSIGN_OR_RETURN(recipe.metric, at.text_or("metric", ""));
  return {};
}

}  // namespace

Result<RecipePaths> RecipePaths::make(const JsonAt& root, const std::string& folder,
                                      const RecipeParameters& given) {
  RecipePaths paths;
  paths.folder_ = folder;
  paths.given_ = given;
  const std::optional<JsonAt> own = root.find("parameters");
  std::string names;
  if (own) {
    const Json::Object* members = own->value().as<Json::Object>();
    if (members == nullptr || members->size() > kMostParameters)
      return own->wrong(fmt::format("an object of at most {} texts", kMostParameters));
    for (const Json::Member& member : *members) {
      TESSERA_ASSIGN_OR_RETURN(const JsonAt value, own->need(member.key.c_str()));
      TESSERA_ASSIGN_OR_RETURN(paths.own_[member.key], value.text());
      names += (names.empty() ? "" : ", ") + member.key;
    }
  }
  for (const auto& [name, value] : given) {
    if (paths.own_.contains(name)) continue;
    return root.failure(StatusCode::kInvalidInput,
                        fmt::format("expected values for its parameters ({}), found one for {}",
                                    names.empty() ? "it has none" : names, quote(name)));
  }
  return paths;
}

Result<std::string> RecipePaths::path(const JsonAt& at) const {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, at.text());
  if (text.empty()) return at.wrong("a path");
  std::string filled;
  bool from_here = false;  // begins with a value that was given
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '{') {
      filled += text[i];
      continue;
    }
    TESSERA_ASSIGN_OR_RETURN(const std::string name, parameter_name(text, i, at));
    const auto given = given_.find(name);
    const auto own = own_.find(name);
    if (own == own_.end())
      return at.wrong(fmt::format("a path with names of parameters, not {}", quote(name)));
    from_here = from_here || (i == 0 && given != given_.end());
    filled += given != given_.end() ? given->second : own->second;
    i += name.size() + 1;
  }
  if (filled.empty()) return at.wrong("a path that is not empty with the parameters filled in");
  const fs::path place = from_here ? fs::path(filled) : fs::path(folder_) / filled;
  return place.lexically_normal().string();
}

Result<std::vector<std::string>> RecipePaths::path_list(const JsonAt& at) const {
  std::vector<std::string> found;
  if (!at.is_list()) {
    TESSERA_ASSIGN_OR_RETURN(std::string one, path(at));
    return std::vector{std::move(one)};
  }
  TESSERA_ASSIGN_OR_RETURN(const std::vector<JsonAt> list, at.list(1, kMostFiles));
  for (const JsonAt& each : list) {
    TESSERA_ASSIGN_OR_RETURN(std::string one, path(each));
    found.push_back(std::move(one));
  }
  return found;
}

Result<RecipeTask> recipe_task(const JsonAt& at, const RecipePaths& paths) {
  const bool is_known = at.find("task").has_value();
  if (is_known == at.find("kind").has_value()) {
    return at.failure(
        StatusCode::kInvalidInput,
        "expected a \"task\" of known data or the \"kind\" of data of your own, found " +
            std::string(is_known ? "both" : "neither"));
  }
  std::vector<const char*> keys = {"name",
                                   "data",
                                   "metric",
                                   "max_examples",
                                   "bad_data",
                                   "long_text",
                                   "window_tokens",
                                   "stride_tokens",
                                   "reference",
                                   "probe",
                                   is_known ? "task" : "kind"};
  if (is_known) {
    keys.push_back("split");
  } else {
    keys.insert(keys.end(), {"train", "dev", "labels", "positive_label"});
  }
  TESSERA_RETURN_IF_ERROR(at.known(keys));
  RecipeTask result;
  TESSERA_ASSIGN_OR_RETURN(result.task, is_known ? known_task(at, paths) : own_task(at, paths));
  TESSERA_RETURN_IF_ERROR(read_options(at, result));
  const std::optional<JsonAt> reference = at.find("reference");
  if (reference) {
    if (result.task.kind != EvaluationKind::kAgreement)
      return reference->wrong("a reference with agreement only");
    TESSERA_ASSIGN_OR_RETURN(result.reference, paths.path(*reference));
  }
  for (const Json::Member& member : *at.value().as<Json::Object>()) {
    if (member.key != "name" && member.key != "metric")
      result.key += fmt::format("{}={} ", member.key, to_text(member.value));
  }
  result.name = result.task.name;
  if (!result.task.split.empty()) result.name += " " + result.task.split;
  return result;
}

}  // namespace tessera
