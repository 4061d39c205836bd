#include "report/recipe_compress.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "io/json.h"
#include "pruning/presets.h"

namespace tessera {
namespace {

constexpr size_t kMostCombinations = 64;

// An option of a compression: one row each.
struct CompressKey {
  const char* key;
  Status (*read)(const JsonAt& at, const RecipePaths& paths, CompressOptions& options);
};

template <PruneUnit kUnit>
Status read_share(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  if (options.prune)
    return at.failure(StatusCode::kInvalidInput, "expected one way to prune, found two");
  TESSERA_ASSIGN_OR_RETURN(const double share, at.number(0, 1));
  options.prune = PruneOptions{.unit = kUnit, .share = share};
  return {};
}

Status read_quantize(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  constexpr WeightType kTypes[] = {WeightType::kInt8, WeightType::kInt4, WeightType::kW8,
                                   WeightType::kW4};
  TESSERA_ASSIGN_OR_RETURN(const size_t which, at.one_of({"int8", "int4", "w8", "w4"}));
  options.quantize = QuantizeOptions{.weights = kTypes[which]};
  return {};
}

Status read_pruning(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(options.pruning, pruning_of(at));
  return {};
}

Status read_calibrate(const JsonAt& at, const RecipePaths& paths, CompressOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(options.calibration.text_file, paths.path(at));
  return {};
}

Status read_calibrate_tokens(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(options.calibration.tokens, at.integer(1, 1 << 24));
  return {};
}

Status read_matrices(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, at.text());
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    options.matrices.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return {};
}

// Of what is pruned, or of what is quantized.
PruneOptions* needs_prune(CompressOptions& options) {
  return options.prune ? &*options.prune : nullptr;
}
Status missing(const JsonAt& at, const char* what) {
  return at.failure(StatusCode::kInvalidInput, fmt::format("expected {} as well", what));
}

Status read_tile(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  PruneOptions* prune = needs_prune(options);
  if (prune == nullptr) return missing(at, "a way to prune");
  TESSERA_ASSIGN_OR_RETURN(const std::string text, at.text());
  const char* const end = text.data() + text.size();
  const auto rows = std::from_chars(text.data(), end, prune->tile_rows);
  const bool has_cross = rows.ec == std::errc() && rows.ptr != end && *rows.ptr == 'x';
  const auto columns =
      has_cross ? std::from_chars(rows.ptr + 1, end, prune->tile_cols) : std::from_chars_result{};
  if (!has_cross || columns.ec != std::errc() || columns.ptr != end)
    return at.wrong("ROWSxCOLUMNS, as 16x16");
  return {};
}

Status read_scope(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  PruneOptions* prune = needs_prune(options);
  if (prune == nullptr) return missing(at, "a way to prune");
  TESSERA_ASSIGN_OR_RETURN(const std::string text, at.text());
  const auto scope = parse<PruneScope>(text);
  if (!scope) return at.wrong(names<PruneScope>());
  prune->scope = *scope;
  return {};
}

Status read_score(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  PruneOptions* prune = needs_prune(options);
  if (prune == nullptr) return missing(at, "a way to prune");
  TESSERA_ASSIGN_OR_RETURN(const std::string text, at.text());
  const auto score = parse<PruneScore>(text);
  if (!score) return at.wrong(names<PruneScore>());
  prune->score = *score;
  return {};
}

Status read_repair(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  PruneOptions* prune = needs_prune(options);
  if (prune == nullptr) return missing(at, "a way to prune");
  TESSERA_ASSIGN_OR_RETURN(const Truth truth, at.truth());
  using Repair = PruneOptions::Repair;
  prune->repair = truth == Truth::kYes ? Repair::kLeastSquares : Repair::kNone;
  return {};
}

Status read_precompute_vo(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  PruneOptions* prune = needs_prune(options);
  if (prune == nullptr) return missing(at, "a way to prune");
  TESSERA_ASSIGN_OR_RETURN(const Truth truth, at.truth());
  using PrecomputeVo = PruneOptions::PrecomputeVo;
  prune->precompute_vo = truth == Truth::kYes ? PrecomputeVo::kYes : PrecomputeVo::kNo;
  return {};
}

Status read_group(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  if (!options.quantize) return missing(at, "quantize");
  TESSERA_ASSIGN_OR_RETURN(const int64_t group, at.integer(0, 1 << 20));
  options.quantize->group = static_cast<int32_t>(group);
  return {};
}

Status read_rounding(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  if (!options.quantize) return missing(at, "quantize");
  TESSERA_ASSIGN_OR_RETURN(const std::string text, at.text());
  const auto rounding = parse<Rounding>(text);
  if (!rounding) return at.wrong(names<Rounding>());
  options.quantize->rounding = *rounding;
  return {};
}

Status read_smooth(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  if (!options.quantize) return missing(at, "quantize");
  TESSERA_ASSIGN_OR_RETURN(options.quantize->smooth, at.number(0, 1));
  return {};
}

Status read_kv_heads(const JsonAt& at, const RecipePaths&, CompressOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(const int64_t heads, at.integer(1, 4096));
  options.kv_heads = static_cast<int32_t>(heads);
  return {};
}

Status read_merge_adapter(const JsonAt& at, const RecipePaths& paths, CompressOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(options.merge_adapter, paths.path(at));
  return {};
}

// In the order in which they are read: what others belong to comes first.
constexpr CompressKey kKeys[] = {
    {"prune_tiles", read_share<PruneUnit::kTiles>},
    {"prune_elements", read_share<PruneUnit::kElements>},
    {"prune_outputs", read_share<PruneUnit::kOutputs>},
    {"prune_inputs", read_share<PruneUnit::kInputs>},
    {"prune_attention_aware", read_share<PruneUnit::kAttentionAware>},
    {"quantize", read_quantize},
    {"tile", read_tile},
    {"scope", read_scope},
    {"score", read_score},
    {"repair", read_repair},
    {"precompute_vo", read_precompute_vo},
    {"group", read_group},
    {"rounding", read_rounding},
    {"smooth", read_smooth},
    {"matrices", read_matrices},
    {"calibrate", read_calibrate},
    {"calibrate_tokens", read_calibrate_tokens},
    {"pruning", read_pruning},
    {"kv_heads", read_kv_heads},
    {"merge_adapter", read_merge_adapter},
};

// As a name shows it: texts without quotation marks.
std::string shown(const Json& value) {
  const std::string* text = value.as<std::string>();
  return text != nullptr ? *text : to_text(value);
}

// One value for each key that the recipe gives.
struct Chosen {
  const char* key;
  JsonAt value;
  bool is_swept;
};

Result<RecipeCompression> compression_of(const std::vector<Chosen>& chosen, const JsonAt& at,
                                         const RecipePaths& paths) {
  RecipeCompression made;
  CompressOptions& options = made.options;
  options.measure = CompressOptions::Measure::kNo;
  const auto find = [&](std::string_view key) {
    return std::any_of(chosen.begin(), chosen.end(),
                       [&](const Chosen& each) { return key == each.key; });
  };
  const bool any_swept =
      std::any_of(chosen.begin(), chosen.end(), [](const Chosen& each) { return each.is_swept; });
  for (const CompressKey& key : kKeys) {
    for (const Chosen& each : chosen) {
      if (std::string_view(each.key) != key.key) continue;
      // With a text the choices of the command line hold: calibrated scores, GPTQ's rounding.
      TESSERA_RETURN_IF_ERROR(key.read(each.value, paths, options));
    }
  }
  if (!options.prune && !options.quantize && options.pruning.empty() && !options.kv_heads &&
      options.merge_adapter.empty())
    return at.failure(StatusCode::kInvalidInput, "expected a way to prune or quantize, found none");
  if (find("calibrate")) {
    if (options.prune && !find("score")) options.prune->score = PruneScore::kCalibrated;
    if (options.quantize && !find("rounding")) options.quantize->rounding = Rounding::kCompensated;
  }
  for (const Chosen& each : chosen) {
    const std::string value = shown(each.value.value());
    made.key += fmt::format("{}={} ", each.key, value);
    if (any_swept && !each.is_swept) continue;
    const char* comma = made.values.empty() ? "" : ", ";
    made.values += comma + value;
    made.label += fmt::format("{}{} {}", comma, each.key, value);
  }
  return made;
}

}  // namespace

Result<std::string> pruning_of(const JsonAt& at) {
  if (at.value().as<Json::Object>() != nullptr) return to_text(at.value());
  const std::string* name = at.value().as<std::string>();
  if (name == nullptr) return at.wrong("an object, the name of a published schedule or \"none\"");
  if (*name == kNoPruning) return *name;
  const Result<NamedSchedule> named = find_schedule(*name);
  if (!named.ok()) return at.failure(named.status().code(), named.status().message());
  return *name;
}

Result<std::vector<RecipeCompression>> compressions_of(const JsonAt& at, const RecipePaths& paths) {
  std::vector<const char*> keys;
  for (const CompressKey& key : kKeys) keys.push_back(key.key);
  TESSERA_RETURN_IF_ERROR(at.known(keys));
  std::vector<std::vector<Chosen>> combinations = {{}};
  for (const char* key : keys) {
    const std::optional<JsonAt> member = at.find(key);
    if (!member) continue;
    std::vector<JsonAt> values = {*member};
    if (member->is_list()) {
      TESSERA_ASSIGN_OR_RETURN(values, member->list(1, kMostCombinations));
    }
    std::vector<std::vector<Chosen>> longer;
    for (const std::vector<Chosen>& begun : combinations) {
      for (const JsonAt& value : values) {
        longer.push_back(begun);
        longer.back().push_back({key, value, member->is_list()});
      }
    }
    combinations = std::move(longer);
    if (combinations.size() > kMostCombinations) {
      return at.failure(StatusCode::kInvalidInput,
                        fmt::format("expected at most {} combinations of its lists, found {}",
                                    kMostCombinations, combinations.size()));
    }
  }
  std::vector<RecipeCompression> all;
  for (const std::vector<Chosen>& chosen : combinations) {
    TESSERA_ASSIGN_OR_RETURN(RecipeCompression one, compression_of(chosen, at, paths));
    all.push_back(std::move(one));
  }
  return all;
}

}  // namespace tessera
