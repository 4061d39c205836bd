#include "model/pooling.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>

#include "io/config.h"
#include "io/json.h"
#include "io/mapped_file.h"

namespace tessera {
namespace {

struct PoolingKey {
  const char* key;
  Pooling pooling;
};
// In the order in which sentence-transformers concatenates them.
constexpr PoolingKey kPoolingKeys[] = {
    {"pooling_mode_cls_token", Pooling::kFirstToken},
    {"pooling_mode_max_tokens", Pooling::kMax},
    {"pooling_mode_mean_tokens", Pooling::kMean},
    {"pooling_mode_mean_sqrt_len_tokens", Pooling::kMeanSqrtLength},
    {"pooling_mode_lasttoken", Pooling::kLastToken},
};

bool exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

Status read_pooling(const std::string& path, SentenceEncoder& encoder) {
  TESSERA_ASSIGN_OR_RETURN(const Config config, Config::read(path));
  encoder.poolings.clear();
  for (const std::string& key : config.keys()) {
    if (!key.starts_with("pooling_mode_")) continue;
    TESSERA_ASSIGN_OR_RETURN(const Config::Truth used, config.truth_or(key, Config::Truth::kNo));
    const bool known = std::any_of(std::begin(kPoolingKeys), std::end(kPoolingKeys),
                                   [&](const PoolingKey& row) { return key == row.key; });
    if (used == Config::Truth::kYes && !known) {
      std::string names;
      for (const PoolingKey& row : kPoolingKeys)
        names += fmt::format("{}{}", names.empty() ? "" : ", ", row.key);
      return unsupported(fmt::format("{}: expected one of {}, found {}", path, names, key));
    }
  }
  for (const PoolingKey& row : kPoolingKeys) {
    TESSERA_ASSIGN_OR_RETURN(const Config::Truth used,
                             config.truth_or(row.key, Config::Truth::kNo));
    if (used == Config::Truth::kYes) encoder.poolings.push_back(row.pooling);
  }
  if (encoder.poolings.empty()) {
    return invalid_input(fmt::format("{}: expected a pooling mode that is true, found none", path));
  }
  return {};
}

Status read_limit(const std::string& path, SentenceEncoder& encoder) {
  if (!exists(path)) return {};
  TESSERA_ASSIGN_OR_RETURN(const Config config, Config::read(path));
  TESSERA_ASSIGN_OR_RETURN(const int64_t limit, config.integer_or("max_seq_length", 0, 0, 1 << 24));
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth lower,
                           config.truth_or("do_lower_case", Config::Truth::kNo));
  if (lower == Config::Truth::kYes) {
    return unsupported(
        fmt::format("{}: do_lower_case: expected false, the only form that Tessera runs", path));
  }
  encoder.max_tokens = static_cast<int32_t>(limit);
  return {};
}

struct Module {
  std::string type;
  std::string folder;
};

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
    modules.push_back({*type->as<std::string>(), *folder->as<std::string>()});
  }
  return modules;
}

}  // namespace

Result<SentenceEncoder> read_sentence_encoder(const std::string& directory) {
  SentenceEncoder encoder;
  const std::string path = directory + "/modules.json";
  if (!exists(path)) return encoder;
  TESSERA_ASSIGN_OR_RETURN(const std::vector<Module> modules, read_modules(path));
  encoder.declared = true;
  encoder.normalise = Normalise::kNo;
  for (const auto& [type, folder] : modules) {
    const std::string name = type.substr(type.rfind('.') + 1);
    if (folder.find("..") != std::string::npos || folder.starts_with('/')) {
      return invalid_input(
          fmt::format("{}: expected a path inside the directory, found \"{}\"", path, folder));
    }
    if (name == "Transformer") {
      if (!folder.empty()) {
        return unsupported(
            fmt::format("{}: expected the Transformer at path \"\", found \"{}\"", path, folder));
      }
      TESSERA_RETURN_IF_ERROR(read_limit(directory + "/sentence_bert_config.json", encoder));
    } else if (name == "Pooling") {
      TESSERA_RETURN_IF_ERROR(read_pooling(directory + "/" + folder + "/config.json", encoder));
    } else if (name == "Normalize") {
      encoder.normalise = Normalise::kYes;
    } else {
      return unsupported(fmt::format(
          "{}: expected modules Transformer, Pooling and Normalize, found \"{}\"", path, type));
    }
  }
  return encoder;
}

void SentenceEncoder::pool(const float* hidden, int64_t rows, int64_t hidden_size,
                           float* target) const {
  float* y = target;
  for (Pooling pooling : poolings) {
    const float* copied =
        pooling == Pooling::kLastToken ? hidden + (rows - 1) * hidden_size : hidden;
    std::copy_n(copied, hidden_size, y);
    const bool sums = pooling == Pooling::kMean || pooling == Pooling::kMeanSqrtLength;
    for (int64_t r = 1; r < rows && (sums || pooling == Pooling::kMax); ++r) {
      const float* x = hidden + r * hidden_size;
      for (int64_t c = 0; c < hidden_size; ++c) y[c] = sums ? y[c] + x[c] : std::max(y[c], x[c]);
    }
    if (sums) {
      const double count = static_cast<double>(rows);
      const float factor =
          static_cast<float>(1 / (pooling == Pooling::kMean ? count : std::sqrt(count)));
      for (int64_t c = 0; c < hidden_size; ++c) y[c] *= factor;
    }
    y += hidden_size;
  }
  if (normalise == Normalise::kNo) return;
  double square = 0;
  for (int64_t c = 0; c < width(hidden_size); ++c)
    square += static_cast<double>(target[c]) * target[c];
  const double length = std::max(std::sqrt(square), 1e-12);
  for (int64_t c = 0; c < width(hidden_size); ++c)
    target[c] = static_cast<float>(target[c] / length);
}

}  // namespace tessera
