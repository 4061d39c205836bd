#include "model/sentence_encoder.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>

#include "io/config.h"
#include "io/json.h"
#include "io/mapped_file.h"

namespace tessera {
namespace {

using Kind = SentenceEncoder::Kind;

bool exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

std::string below(const std::string& directory, const std::string& folder) {
  return folder.empty() ? directory : directory + "/" + folder;
}

// The rows of a table by name, for messages.
template <typename Table>
std::string names_of(const Table& table) {
  std::string names;
  for (const auto& row : table) names += fmt::format("{}{}", names.empty() ? "" : ", ", row.name);
  return names;
}

struct PoolingKey {
  const char* name;
  Pooling pooling;
};
// As files before sentence-transformers 5.4 say it, in the order in which they are concatenated.
constexpr PoolingKey kPoolingKeys[] = {
    {"pooling_mode_cls_token", Pooling::kFirstToken},
    {"pooling_mode_max_tokens", Pooling::kMax},
    {"pooling_mode_mean_tokens", Pooling::kMean},
    {"pooling_mode_mean_sqrt_len_tokens", Pooling::kMeanSqrtLength},
    {"pooling_mode_weightedmean_tokens", Pooling::kWeightedMean},
    {"pooling_mode_lasttoken", Pooling::kLastToken},
};

Result<std::vector<Pooling>> poolings_by_keys(const Config& config, const std::string& path) {
  std::vector<Pooling> poolings;
  for (const std::string& key : config.keys()) {
    if (!key.starts_with("pooling_mode_")) continue;
    TESSERA_ASSIGN_OR_RETURN(const Config::Truth used, config.truth_or(key, Config::Truth::kNo));
    const bool known = std::any_of(std::begin(kPoolingKeys), std::end(kPoolingKeys),
                                   [&](const PoolingKey& row) { return key == row.name; });
    if (used == Config::Truth::kYes && !known) {
      return unsupported(
          fmt::format("{}: expected one of {}, found {}", path, names_of(kPoolingKeys), key));
    }
  }
  for (const PoolingKey& row : kPoolingKeys) {
    TESSERA_ASSIGN_OR_RETURN(const Config::Truth used,
                             config.truth_or(row.name, Config::Truth::kNo));
    if (used == Config::Truth::kYes) poolings.push_back(row.pooling);
  }
  if (poolings.empty()) poolings.push_back(Pooling::kMean);
  return poolings;
}

Result<std::vector<Pooling>> poolings_by_words(const Config& config, const std::string& path) {
  constexpr std::string_view kKey = "pooling_mode";
  std::vector<std::string> words;
  const Result<std::string> word = config.string(kKey);
  if (word.ok()) {
    words.push_back(*word);
  } else {
    TESSERA_ASSIGN_OR_RETURN(words, config.strings(kKey));
  }
  std::vector<Pooling> poolings;
  for (const std::string& each : words) {
    const std::optional<Pooling> pooling = parse<Pooling>(each);
    if (!pooling) {
      return unsupported(fmt::format("{}: {}: expected one of {}, found {}", path, kKey,
                                     names<Pooling>(), quote(each)));
    }
    poolings.push_back(*pooling);
  }
  if (!poolings.empty()) return poolings;
  return invalid_input(
      fmt::format("{}: {}: expected at least one of {}, found none", path, kKey, names<Pooling>()));
}

Status read_pooling(const std::string& folder, SentenceEncoder& encoder) {
  const std::string path = folder + "/config.json";
  TESSERA_ASSIGN_OR_RETURN(const Config config, Config::read(path));
  TESSERA_ASSIGN_OR_RETURN(encoder.poolings, config.has("pooling_mode")
                                                 ? poolings_by_words(config, path)
                                                 : poolings_by_keys(config, path));
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth included,
                           config.truth_or("include_prompt", Config::Truth::kYes));
  if (included == Config::Truth::kNo) encoder.prompt_tokens = PromptTokens::kLeftOut;
  return {};
}

// The Transformer's own settings, under any of the names that they have had; empty without any.
Result<Config> read_transformer_settings(const std::string& folder) {
  for (const char* kind :
       {"bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"}) {
    const std::string path = fmt::format("{}/sentence_{}_config.json", folder, kind);
    if (!exists(path)) continue;
    TESSERA_ASSIGN_OR_RETURN(Config config, Config::read(path));
    if (!config.keys().empty()) return config;
  }
  return Config();
}

// 0: the file does not say.
Result<int32_t> read_limit(const Config& config, std::string_view key) {
  constexpr double kMost = 1 << 24;
  TESSERA_ASSIGN_OR_RETURN(const double limit, config.number_or(key, 0));
  if (limit >= 0 && (limit == std::floor(limit) || limit > kMost)) {
    // Tokenizers without a limit say 1e30.
    return limit > kMost ? 0 : static_cast<int32_t>(limit);
  }
  return invalid_input(
      fmt::format("{}: {}: expected a number of tokens, found {}", config.source(), key, limit));
}

// The first of the places that says how long a text may be, the strongest first.
Result<int32_t> read_max_tokens(const Config& settings, const std::string& folder) {
  TESSERA_ASSIGN_OR_RETURN(const Config processing, settings.child("processing_kwargs"));
  TESSERA_ASSIGN_OR_RETURN(const Config text, processing.child("text"));
  TESSERA_ASSIGN_OR_RETURN(const Config processor, settings.child("processor_kwargs"));
  TESSERA_ASSIGN_OR_RETURN(const Config older, settings.child("tokenizer_args"));
  Config tokenizer;
  if (const std::string path = folder + "/tokenizer_config.json"; exists(path)) {
    TESSERA_ASSIGN_OR_RETURN(tokenizer, Config::read(path));
  }
  constexpr std::string_view kLimit = "model_max_length";
  for (const auto& [config, key] :
       {std::pair{&text, std::string_view("max_length")}, std::pair{&processor, kLimit},
        std::pair{&older, kLimit}, std::pair{&settings, std::string_view("max_seq_length")},
        std::pair{static_cast<const Config*>(&tokenizer), kLimit}}) {
    TESSERA_ASSIGN_OR_RETURN(const int32_t limit, read_limit(*config, key));
    if (limit > 0) return limit;
  }
  return 0;
}

struct Task {
  std::string_view name;
  Kind kind;
  std::string_view output;
};
// transformer_task, what it makes of the directory, and what the model gives for it.
constexpr Task kTasks[] = {
    {"feature-extraction", Kind::kEmbeddings, "last_hidden_state"},
    {"sequence-classification", Kind::kClassifier, "logits"},
};

Status read_task(const Config& settings, SentenceEncoder& encoder) {
  if (settings.keys().empty()) return {};
  constexpr std::string_view kKey = "transformer_task";
  TESSERA_ASSIGN_OR_RETURN(
      const std::string found,
      settings.string_or(kKey, encoder.kind == Kind::kClassifier ? "sequence-classification"
                                                                 : "feature-extraction"));
  const auto* task = std::find_if(std::begin(kTasks), std::end(kTasks),
                                  [&](const Task& row) { return row.name == found; });
  if (task == std::end(kTasks)) {
    return unsupported(fmt::format("{}: {}: expected one of {}, found {}", settings.source(), kKey,
                                   names_of(kTasks), quote(found)));
  }
  encoder.kind = task->kind;
  TESSERA_ASSIGN_OR_RETURN(const Config modalities, settings.child("modality_config"));
  if (modalities.keys().empty()) return {};
  TESSERA_ASSIGN_OR_RETURN(const Config text, modalities.child("text"));
  TESSERA_ASSIGN_OR_RETURN(const std::string output,
                           text.string_or("method_output_name", "nothing for texts"));
  if (output == task->output) return {};
  return unsupported(fmt::format("{}: modality_config: expected texts that give {}, found {}",
                                 settings.source(), task->output, quote(output)));
}

Status read_transformer(const std::string& folder, SentenceEncoder& encoder) {
  TESSERA_ASSIGN_OR_RETURN(const Config settings, read_transformer_settings(folder));
  TESSERA_RETURN_IF_ERROR(read_task(settings, encoder));
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth lower,
                           settings.truth_or("do_lower_case", Config::Truth::kNo));
  if (lower == Config::Truth::kYes) {
    return unsupported(fmt::format(
        "{}: do_lower_case: expected false, the only form that Tessera runs", settings.source()));
  }
  TESSERA_ASSIGN_OR_RETURN(encoder.max_tokens, read_max_tokens(settings, folder));
  return {};
}

// A class path in quotation marks: what it is lies at its end, which quote() cuts.
std::string whole(const std::string& path) {
  constexpr size_t kMostBytes = 200;
  return path.size() <= kMostBytes ? to_json_string(path) : quote(path);
}

struct Module {
  std::string name;  // the last part of its type
  std::string folder;
};

constexpr std::string_view kModules[] = {"Transformer", "Pooling",   "Dense",
                                         "LayerNorm",   "Normalize", "Dropout"};

Result<std::vector<Module>> read_modules(const std::string& path) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, 1 << 20));
  TESSERA_ASSIGN_OR_RETURN(const Json root, parse_json(text, path));
  const Status bad = invalid_input(fmt::format(
      "{}: expected a list of modules with type and path, found {}", path, shortened(root)));
  const Json::Array* list = root.as<Json::Array>();
  if (list == nullptr) return bad;
  std::vector<Module> modules;
  for (const Json& entry : *list) {
    const Json *type = entry.find("type"), *folder = entry.find("path");
    if (type == nullptr || folder == nullptr || type->as<std::string>() == nullptr ||
        folder->as<std::string>() == nullptr) {
      return bad;
    }
    const std::string& name = *type->as<std::string>();
    Module module{name.substr(name.rfind('.') + 1), *folder->as<std::string>()};
    if (module.folder.find("..") != std::string::npos || module.folder.starts_with('/')) {
      return invalid_input(fmt::format("{}: expected a path inside the directory, found {}", path,
                                       quote(module.folder)));
    }
    // Another package's module of the same name may do anything.
    if (!name.starts_with("sentence_transformers.") ||
        std::find(std::begin(kModules), std::end(kModules), module.name) == std::end(kModules)) {
      return unsupported(
          fmt::format("{}: expected modules of sentence_transformers that are one of {}, found {}",
                      path, fmt::join(kModules, ", "), whole(name)));
    }
    modules.push_back(std::move(module));
  }
  return modules;
}

Status read_module(const Module& module, const std::string& directory, SentenceEncoder& encoder) {
  const std::string folder = below(directory, module.folder);
  if (module.name == "Pooling") return read_pooling(folder, encoder);
  if (module.name == "Normalize") {
    encoder.steps.emplace_back(NormaliseStep());
  } else if (module.name == "Dense") {
    TESSERA_ASSIGN_OR_RETURN(EmbeddingStep step, read_dense_step(folder));
    encoder.steps.push_back(std::move(step));
  } else if (module.name == "LayerNorm") {
    TESSERA_ASSIGN_OR_RETURN(EmbeddingStep step, read_layer_norm_step(folder));
    encoder.steps.push_back(std::move(step));
  }
  return {};  // Dropout does nothing when a model is used
}

// A Transformer, for embeddings a Pooling, and what follows it.
Status check_order(const std::vector<Module>& modules, const SentenceEncoder& encoder,
                   const std::string& path) {
  const auto count = [&](std::string_view name) {
    return std::count_if(modules.begin(), modules.end(),
                         [&](const Module& module) { return module.name == name; });
  };
  std::string found;
  for (const Module& module : modules)
    found += fmt::format("{}{}", found.empty() ? "" : ", ", module.name);
  if (found.empty()) found = "nothing";
  if (encoder.kind == Kind::kClassifier) {
    if (modules.size() == 1) return {};
    return unsupported(
        fmt::format("{}: expected a Transformer alone to classify texts, found {}", path, found));
  }
  if (modules.size() >= 2 && modules[1].name == "Pooling" && count("Transformer") == 1 &&
      count("Pooling") == 1) {
    return {};
  }
  return unsupported(fmt::format(
      "{}: expected a Transformer, a Pooling and what follows it, found {}", path, found));
}

struct NamedSimilarity {
  std::string_view name;
  Similarity similarity;
};
constexpr NamedSimilarity kSimilarities[] = {
    {"cosine", Similarity::kCosine},
    {"dot", Similarity::kDot},
    {"euclidean", Similarity::kEuclidean},
    {"manhattan", Similarity::kManhattan},
};

Status read_prompts(const Config& config, SentenceEncoder& encoder) {
  TESSERA_ASSIGN_OR_RETURN(const Config prompts, config.child("prompts"));
  for (const std::string& name : prompts.keys()) {
    TESSERA_ASSIGN_OR_RETURN(std::string text, prompts.string_or(name, ""));
    encoder.prompts.push_back({name, std::move(text)});
  }
  TESSERA_ASSIGN_OR_RETURN(const std::string chosen, config.string_or("default_prompt_name", ""));
  if (chosen.empty()) return {};
  for (const Prompt& prompt : encoder.prompts) {
    if (prompt.name != chosen) continue;
    encoder.default_prompt = prompt.text;
    return {};
  }
  return invalid_input(fmt::format("{}: default_prompt_name: expected one of the prompts, found {}",
                                   config.source(), quote(chosen)));
}

// config_sentence_transformers.json, which may be absent.
Status read_model_settings(const std::string& path, SentenceEncoder& encoder) {
  if (!exists(path)) return {};
  TESSERA_ASSIGN_OR_RETURN(const Config config, Config::read(path));
  TESSERA_ASSIGN_OR_RETURN(const std::string type,
                           config.string_or("model_type", "SentenceTransformer"));
  if (type != "SentenceTransformer" && type != "CrossEncoder") {
    return unsupported(
        fmt::format("{}: model_type: expected SentenceTransformer or CrossEncoder, found {}",
                    config.source(), quote(type)));
  }
  if (type == "CrossEncoder") encoder.kind = Kind::kClassifier;
  TESSERA_RETURN_IF_ERROR(read_prompts(config, encoder));
  TESSERA_ASSIGN_OR_RETURN(const int64_t kept, config.integer_or("truncate_dim", 0, 1, INT32_MAX));
  encoder.dimensions = static_cast<int32_t>(kept);
  TESSERA_ASSIGN_OR_RETURN(const std::string activation, config.string_or("activation_fn", ""));
  if (!activation.empty()) {
    TESSERA_ASSIGN_OR_RETURN(encoder.relevance_scores,
                             read_score_activation(activation, config.source()));
  }
  TESSERA_ASSIGN_OR_RETURN(const std::string similarity,
                           config.string_or("similarity_fn_name", "cosine"));
  for (const NamedSimilarity& row : kSimilarities) {
    if (row.name != similarity) continue;
    encoder.similarity = row.similarity;
    return {};
  }
  return unsupported(fmt::format("{}: similarity_fn_name: expected one of {}, found {}",
                                 config.source(), names_of(kSimilarities), quote(similarity)));
}

struct ScoreActivation {
  std::string_view name;
  LabelScores scores;
};
constexpr ScoreActivation kScoreActivations[] = {
    {"Identity", LabelScores::kLogits},
    {"Sigmoid", LabelScores::kSigmoid},
    {"Softmax", LabelScores::kSoftmax},
    {"Tanh", LabelScores::kTanh},
};

}  // namespace

Result<LabelScores> read_score_activation(std::string_view path, const std::string& source) {
  for (const ScoreActivation& row : kScoreActivations) {
    if (path.starts_with("torch.nn.") && path.substr(path.rfind('.') + 1) == row.name) {
      return row.scores;
    }
  }
  return unsupported(
      fmt::format("{}: the activation of scores: expected one of torch.nn's {}, "
                  "found {}",
                  source, names_of(kScoreActivations), quote(path)));
}

Result<SentenceEncoder> read_sentence_encoder(const ModelDirectory& home) {
  SentenceEncoder encoder;
  const std::string path = home.path + "/modules.json";
  if (!exists(path)) {
    TESSERA_ASSIGN_OR_RETURN(encoder.max_tokens, read_max_tokens(Config(), home.path));
    return encoder;
  }
  TESSERA_ASSIGN_OR_RETURN(const std::vector<Module> modules, read_modules(path));
  encoder.kind = Kind::kEmbeddings;
  encoder.steps.clear();
  TESSERA_RETURN_IF_ERROR(
      read_model_settings(home.path + "/config_sentence_transformers.json", encoder));
  if (modules.empty() || modules.front().name != "Transformer") {
    return unsupported(fmt::format("{}: expected a Transformer first, found {}", path,
                                   modules.empty() ? "nothing" : modules.front().name));
  }
  TESSERA_RETURN_IF_ERROR(read_transformer(home.transformer, encoder));
  TESSERA_RETURN_IF_ERROR(check_order(modules, encoder, path));
  for (const Module& module : modules) {
    TESSERA_RETURN_IF_ERROR(read_module(module, home.path, encoder));
  }
  return encoder;
}

int64_t SentenceEncoder::whole_width(int64_t hidden_size) const {
  int64_t width = hidden_size * static_cast<int64_t>(poolings.size());
  for (const EmbeddingStep& step : steps) width = outputs_of(step, width).value();
  return width;
}

int64_t SentenceEncoder::width(int64_t hidden_size) const {
  const int64_t whole = whole_width(hidden_size);
  return dimensions > 0 ? std::min<int64_t>(dimensions, whole) : whole;
}

Status SentenceEncoder::check(int64_t hidden_size, const std::string& directory) const {
  int64_t width = hidden_size * static_cast<int64_t>(poolings.size());
  for (const EmbeddingStep& step : steps) {
    const Result<int64_t> next = outputs_of(step, width);
    if (!next.ok()) return invalid_input(directory + ": " + next.status().message());
    width = *next;
  }
  return {};
}

void SentenceEncoder::embed(const PooledRows& rows, float* target) const {
  std::vector<float> x(static_cast<size_t>(rows.size) * poolings.size());
  pool(rows, poolings, x.data());
  for (const EmbeddingStep& step : steps) apply(step, x);
  const size_t kept =
      dimensions > 0 ? std::min(x.size(), static_cast<size_t>(dimensions)) : x.size();
  std::copy_n(x.begin(), kept, target);
}

}  // namespace tessera
