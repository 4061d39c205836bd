#include "io/other_tools.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <vector>

#include "io/config.h"
#include "io/json.h"
#include "io/model_directory.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

struct Tool {
  std::string_view method;  // as config.json says
  std::string_view name;
  std::string_view precision;  // of ours that comes nearest
};
constexpr std::string_view kByBits = "";  // as many as config.json says, or 4
constexpr Tool kTools[] = {
    {"gptq", "GPTQ", kByBits},
    {"gptq_marlin", "GPTQ", kByBits},
    {"marlin", "GPTQ", kByBits},
    {"awq", "AWQ", kByBits},
    {"bitsandbytes", "bitsandbytes", kByBits},
    {"bitsandbytes_4bit", "bitsandbytes", "w4"},
    {"bitsandbytes_8bit", "bitsandbytes", "int8"},
    {"compressed-tensors", "llm-compressor", kByBits},
    {"fp8", "FP8", "w8"},
    {"finegrained_fp8", "FP8", "w8"},
    {"fbgemm_fp8", "FBGEMM FP8", "w8"},
    {"modelopt", "NVIDIA ModelOpt", "w8"},
    {"mxfp4", "MXFP4", "w4"},
    {"fp_quant", "FP-Quant", "w4"},
    {"mlx", "MLX", kByBits},
    {"aqlm", "AQLM", "w4"},
    {"vptq", "VPTQ", "w4"},
    {"spqr", "SpQR", "w4"},
    {"higgs", "HIGGS", "w4"},
    {"eetq", "EETQ", "int8"},
    {"hqq", "HQQ", kByBits},
    {"torchao", "torchao", kByBits},
    {"quanto", "Quanto", kByBits},
    {"quark", "AMD Quark", kByBits},
    {"auto-round", "AutoRound", kByBits},
    {"intel/auto-round", "AutoRound", kByBits},
    {"bitnet", "BitNet", "w4"},
    {"exl2", "ExLlamaV2", "w4"},
    {"exl3", "ExLlamaV3", "w4"},
    {"squeezellm", "SqueezeLLM", "w4"},
    {"gguf", "GGUF", "w4"},
};

// What tools leave beside a config.json that says nothing: a file, and a key that it has.
struct Trace {
  const char* file;
  std::string_view key;
  std::string_view method;
};
constexpr Trace kTraces[] = {
    {"quantize_config.json", "bits", "gptq"},
    {"quant_config.json", "w_bit", "awq"},
    {"hf_quant_config.json", "quantization", "modelopt"},
    {"quanto_qmap.json", "", "quanto"},
};

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// Empty where there is none, or none that can be read: whoever needs it says so.
Config config_of(const fs::path& path) {
  if (!is_there(path)) return {};
  Result<Config> config = Config::read(path);
  return config.ok() ? std::move(config).value() : Config();
}

Config child_of(const Config& config, std::string_view key) {
  Result<Config> child = config.child(key);
  return child.ok() ? std::move(child).value() : Config();
}

std::string text_of(const Config& config, std::string_view key) {
  return config.string_or(key, "").ok() ? *config.string_or(key, "") : "";
}

bool is_true(const Config& config, std::string_view key) {
  const auto truth = config.truth_or(key, Config::Truth::kNo);
  return truth.ok() && *truth == Config::Truth::kYes;
}

// The method that a section names, or that follows from its other keys.
std::string method_of(const Config& section) {
  for (const char* key : {"quant_method", "quantization_method"}) {
    if (std::string method = text_of(section, key); !method.empty()) {
      std::transform(method.begin(), method.end(), method.begin(),
                     [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      return method;
    }
  }
  if (is_true(section, "load_in_4bit")) return "bitsandbytes_4bit";
  if (is_true(section, "load_in_8bit")) return "bitsandbytes_8bit";
  if (section.has("producer") || section.has("quant_algo")) return "modelopt";
  if (section.has("config_groups") || section.has("format")) return "compressed-tensors";
  if (section.has("zero_point") && section.has("version")) return "awq";
  if (section.has("desc_act")) return "gptq";
  if (section.has("bits") && section.has("group_size")) return "mlx";
  return "";
}

std::string precision_of(std::string_view method, const Config& section) {
  const auto* tool = std::find_if(std::begin(kTools), std::end(kTools),
                                  [&](const Tool& row) { return row.method == method; });
  if (tool != std::end(kTools) && tool->precision != kByBits) return std::string(tool->precision);
  const auto bits = section.integer_or("bits", 4, 0, 64);
  const std::string format = text_of(section, "format");  // "int-quantized", "pack-quantized"
  const bool eight = (bits.ok() && *bits == 8) || is_true(section, "load_in_8bit") ||
                     text_of(section, "weights").find('8') != std::string::npos ||
                     (!format.empty() && format.find("pack") == std::string::npos);
  return eight ? "int8" : "w4";
}

// What was found, with the tool's name where config.json has another word for it, or none.
std::string found_of(std::string_view method, const Config& section) {
  const bool is_named = section.has("quant_method") || section.has("quantization_method");
  for (const Tool& tool : kTools) {
    if (tool.method != method) continue;
    if (!is_named) return fmt::format("that of {}", tool.name);
    return tool.name == method ? quote(method) : fmt::format("{} ({})", quote(method), tool.name);
  }
  return method.empty() ? "that of another tool" : quote(method);
}

// The rest of the sentence: what to do instead.
std::string way_out(const Config& config, std::string_view precision) {
  std::string base = text_of(config, "_name_or_path");
  if (base.empty()) base = text_of(config, "base_model");
  const std::string model = base.find('/') != std::string::npos && hub_id(base)
                                ? fmt::format(" ({}, as config.json has it)", base)
                                : std::string();
  return fmt::format(
      "Tessera reads F32, F16 and BF16: take the unquantized model that it was made from{}, and "
      "quantize that with tessera compress --quantize {}",
      model, precision);
}

Status check_quantized(const std::string& directory) {
  const Config config = config_of(fs::path(directory) / "config.json");
  for (const char* key : {"quantization_config", "quantization", "compression_config"}) {
    if (!config.has(key)) continue;
    const Config section = child_of(config, key);
    const std::string method =
        std::string_view(key) == "compression_config" ? "compressed-tensors" : method_of(section);
    return unsupported(fmt::format("{}: config.json: {}: expected none, found {}; {}", directory,
                                   key, found_of(method, section),
                                   way_out(config, precision_of(method, section))));
  }
  for (const Trace& trace : kTraces) {
    const fs::path path = fs::path(directory) / trace.file;
    if (!is_there(path)) continue;
    const Config section = config_of(path);
    if (!trace.key.empty() && !section.has(trace.key)) continue;
    return unsupported(fmt::format("{}: expected weights that are not quantized, found {}, {}; {}",
                                   directory, trace.file, found_of(trace.method, Config()),
                                   way_out(config, precision_of(trace.method, section))));
  }
  return {};
}

bool has_safetensors(const fs::path& directory) {
  return is_there(directory / "model.safetensors") ||
         is_there(directory / "model.safetensors.index.json");
}

Status check_adapter(const std::string& directory) {
  const fs::path home(directory);
  if (!is_there(home / "adapter_config.json")) return {};
  const bool has_adapter =
      is_there(home / "adapter_model.safetensors") || is_there(home / "adapter_model.bin");
  if (has_safetensors(home) && !has_adapter) return {};
  const Config config = config_of(home / "adapter_config.json");
  const std::string base = text_of(config, "base_model_name_or_path");
  const std::string kind = text_of(config, "peft_type");
  return unsupported(fmt::format(
      "{}: expected a whole model, found an adapter ({}) of {}: merge the two first, with "
      "merge_and_unload() and save_pretrained() of Python's peft, and take the directory that this "
      "writes",
      directory, kind.empty() ? "adapter_config.json" : kind,
      base.empty() ? "a model that it does not name" : base));
}

bool is_gguf(const fs::path& path) {
  if (path.extension() == ".gguf") return true;
  std::array<char, 4> magic{};
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored)) return false;
  std::ifstream(path, std::ios::binary).read(magic.data(), magic.size());
  return std::string_view(magic.data(), magic.size()) == "GGUF";
}

Status gguf(const std::string& path, const std::string& found) {
  return unsupported(fmt::format(
      "{}: expected a directory with config.json and model.safetensors, found {}, the format of "
      "llama.cpp and Ollama, which Tessera does not read: take the model that it was made from, "
      "and "
      "quantize that with tessera compress --quantize w4",
      path, found));
}

Status check_gguf(const std::string& directory) {
  if (has_safetensors(directory)) return {};
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator entry(directory, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() == ".gguf") names.push_back(entry->path().filename());
  }
  if (names.empty()) return {};
  return gguf(directory, "the GGUF file " + quote(*std::min_element(names.begin(), names.end())));
}

}  // namespace

Status check_other_tools(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return is_gguf(path) ? gguf(path, "a GGUF file") : Status();
  TESSERA_RETURN_IF_ERROR(check_adapter(path));
  TESSERA_RETURN_IF_ERROR(check_gguf(path));
  return check_quantized(path);
}

}  // namespace tessera
