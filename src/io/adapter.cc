#include "io/adapter.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <string_view>
#include <utility>

#include "io/json.h"

namespace tessera {
namespace {

constexpr size_t at(int64_t index) { return static_cast<size_t>(index); }

Status not_plain(const Config& config, const std::string& expected, const std::string& found) {
  return unsupported(
      fmt::format("{}: expected an adapter {}, found {}", config.source(), expected, found));
}

// Keys that, where they are true, make an update more than B A.
constexpr const char* kMustBeFalse[] = {"use_dora", "lora_bias", "use_qalora"};
// Keys that, where they hold something, make it an update of something else.
constexpr const char* kMustBeEmpty[] = {"alpha_pattern", "layer_replication", "target_parameters",
                                        "trainable_token_indices", "modules_to_tie"};

bool is_empty(std::string_view json) { return json == "null" || json == "{}" || json == "[]"; }

// The value of a key as JSON; "null" where there is none.
Result<std::string> value_of(const Config& config, const char* key) {
  if (!config.has(key)) return std::string("null");
  TESSERA_ASSIGN_OR_RETURN(const Json all, parse_json(config.dump(), config.source()));
  return to_text(*all.find(key));
}

// Of these PEFT changes the weights that the update is added to (PiSSA, OLoRA and their kin).
Status check_first_values(const Config& config) {
  TESSERA_ASSIGN_OR_RETURN(const std::string first, value_of(config, "init_lora_weights"));
  for (const char* known : {"null", "true", "false", "\"gaussian\"", "\"eva\"", "\"orthogonal\""}) {
    if (first == known) return {};
  }
  return not_plain(config, "whose updates are of the model's own weights",
                   "init_lora_weights " + shortened(*parse_json(first, config.source())));
}

bool is_float(const TensorView& view) {
  return view.dtype == DType::kF32 || view.dtype == DType::kF16 || view.dtype == DType::kBF16;
}

std::vector<float> floats_of(const TensorView& view) {
  int64_t count = 1;
  for (const int64_t extent : view.shape) count *= extent;
  std::vector<float> values(at(count));
  convert_to_f32(view.data, view.dtype, count, values.data());
  return values;
}

// "classifier.weight" of "classifier.modules_to_save.default.weight".
std::string without_wrapper(std::string name) {
  for (const char* wrapper : {".modules_to_save.default", ".modules_to_save"}) {
    const size_t found = name.find(wrapper);
    if (found == std::string::npos) continue;
    name.erase(found, std::string_view(wrapper).size());
    break;
  }
  return name;
}

// The name without an ending; empty where it has another one.
std::string stem(const std::string& name, std::string_view ending) {
  return name.ends_with(ending) ? name.substr(0, name.size() - ending.size()) : "";
}

Status check_update(const AdapterUpdate& update, const std::string& source) {
  const auto wrong = [&](const std::string& found) {
    return invalid_input(
        fmt::format("{}: module {}: expected A of rank x inputs and B of outputs x rank, found {}",
                    source, quote(update.module), found));
  };
  if (update.down.shape.empty()) return wrong("no " + std::string(kAdapterDown));
  if (update.up.shape.empty()) return wrong("no " + std::string(kAdapterUp));
  const std::vector<int64_t>&a = update.down.shape, &b = update.up.shape;
  const bool fits =
      a.size() == 2 && b.size() == 2 && a[0] == b[1] && a[0] > 0 && a[1] > 0 && b[0] > 0;
  return fits ? Status() : wrong("others");
}

}  // namespace

double AdapterScale::of(int64_t rank) const {
  const auto divisor = static_cast<double>(rank);
  return alpha / (by == By::kRank ? divisor : std::sqrt(divisor));
}

Result<AdapterScale> read_adapter_config(const Config& config) {
  TESSERA_ASSIGN_OR_RETURN(const std::string type, config.string("peft_type"));
  if (type != "LORA") return not_plain(config, "of the peft_type LORA", quote(type));
  for (const char* key : kMustBeFalse) {
    TESSERA_ASSIGN_OR_RETURN(const auto truth, config.truth_or(key, Config::Truth::kNo));
    if (truth == Config::Truth::kYes) return not_plain(config, "of plain updates B A", key);
  }
  for (const char* key : kMustBeEmpty) {
    TESSERA_ASSIGN_OR_RETURN(const std::string value, value_of(config, key));
    if (!is_empty(value)) return not_plain(config, "of one scale and of matrices alone", key);
  }
  TESSERA_ASSIGN_OR_RETURN(const std::string bias, config.string_or("bias", "none"));
  if (bias != "none") return not_plain(config, "that trains no biases", "bias " + quote(bias));
  TESSERA_RETURN_IF_ERROR(check_first_values(config));
  AdapterScale scale;
  TESSERA_ASSIGN_OR_RETURN(scale.alpha, config.number("lora_alpha"));
  TESSERA_ASSIGN_OR_RETURN(const auto by_root, config.truth_or("use_rslora", Config::Truth::kNo));
  if (by_root == Config::Truth::kYes) scale.by = AdapterScale::By::kRootOfRank;
  return scale;
}

void AdapterUpdate::add_to(std::vector<float>& values, int64_t first, double scale) const {
  const std::vector<float> a = floats_of(down), b = floats_of(up);
  const int64_t width = inputs();
  std::vector<double> sums(at(width));
  for (int64_t row = 0; row < static_cast<int64_t>(values.size()) / width; ++row) {
    float* target = values.data() + row * width;
    sums.assign(target, target + width);
    for (int64_t r = 0; r < rank(); ++r) {
      const double factor = scale * b[at((first + row) * rank() + r)];
      const float* line = a.data() + r * width;
      for (int64_t i = 0; i < width; ++i) sums[at(i)] += factor * line[i];
    }
    for (int64_t i = 0; i < width; ++i) target[i] = static_cast<float>(sums[at(i)]);
  }
}

Result<AdapterTensors> sort_adapter_tensors(const std::map<std::string, TensorView>& tensors,
                                            const std::string& source) {
  AdapterTensors sorted;
  std::map<std::string, AdapterUpdate> updates;
  for (const auto& [name, view] : tensors) {
    const auto wrong = [&source, &text = name](const char* expected) {
      return invalid_input(
          fmt::format("{}: tensor {}: expected {}, found another", source, quote(text), expected));
    };
    if (!name.starts_with(kAdapterPrefix))
      return wrong("a name that begins with base_model.model.");
    if (!is_float(view)) return wrong("a tensor of floats");
    const std::string inner = name.substr(std::string_view(kAdapterPrefix).size());
    if (const std::string module = stem(inner, kAdapterDown); !module.empty()) {
      updates[module].down = view;
    } else if (const std::string of_up = stem(inner, kAdapterUp); !of_up.empty()) {
      updates[of_up].up = view;
    } else if (inner.find("lora_") != std::string::npos) {
      return wrong("lora_A.weight or lora_B.weight, as plain LoRA has them,");
    } else {
      sorted.whole[without_wrapper(inner)] = view;
    }
  }
  for (auto& [module, update] : updates) {
    update.module = module;
    TESSERA_RETURN_IF_ERROR(check_update(update, source));
    sorted.updates.push_back(std::move(update));
  }
  if (!sorted.updates.empty()) return sorted;
  return invalid_input(
      fmt::format("{}: expected updates {} and {}, found none", source, kAdapterDown, kAdapterUp));
}

Result<Adapter> Adapter::open(const std::string& directory) {
  const std::string path = directory + "/" + kAdapterFile;
  TESSERA_ASSIGN_OR_RETURN(const Config config, Config::read(directory + "/" + kAdapterConfigFile));
  TESSERA_ASSIGN_OR_RETURN(const AdapterScale scale, read_adapter_config(config));
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored) &&
      std::filesystem::exists(directory + "/adapter_model.bin", ignored)) {
    return unsupported(
        fmt::format("{}: expected {}, found adapter_model.bin: save it again with "
                    "safe_serialization=True",
                    directory, kAdapterFile));
  }
  TESSERA_ASSIGN_OR_RETURN(Safetensors file, Safetensors::open(path));
  Adapter adapter(directory, std::move(file));
  adapter.scale_ = scale;
  TESSERA_ASSIGN_OR_RETURN(adapter.tensors_, sort_adapter_tensors(adapter.file_.tensors(), path));
  return adapter;
}

}  // namespace tessera
