#include <fmt/format.h>

#include "model/families/families.h"

namespace tessera {
namespace {

struct NamedActivation {
  std::string_view name;
  Activation activation;
};
constexpr NamedActivation kActivations[] = {
    {"gelu", Activation::kGeluErf},
    {"gelu_python", Activation::kGeluErf},
    {"gelu_new", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"silu", Activation::kSilu},
    {"swish", Activation::kSilu},
    {"relu", Activation::kRelu},
    {"tanh", Activation::kTanh},
};

}  // namespace

Status read_size(const Config& config, std::string_view key, int32_t& target) {
  TESSERA_ASSIGN_OR_RETURN(const int64_t value, config.integer(key, 1, kMostUnits));
  target = static_cast<int32_t>(value);
  return {};
}

Status read_size_or(const Config& config, std::string_view key, int32_t fallback, int32_t& target) {
  if (config.contains(key)) return read_size(config, key, target);
  target = fallback;
  return {};
}

std::string_view spelling(const Config& config, std::string_view own, std::string_view common) {
  return config.contains(common) ? common : own;
}

Status refuse_nulls(const Config& config, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) {
    if (!config.contains(key) || config.has(key)) continue;
    return invalid_input(
        fmt::format("{}: {}: expected a value, or no such key, found null", config.source(), key));
  }
  return {};
}

Status read_layers(const Config& config, std::string_view key, const LayerRecord& layer,
                   Architecture& architecture) {
  TESSERA_ASSIGN_OR_RETURN(const int64_t layers, config.integer(key, 1, kMostLayers));
  architecture.layers.assign(static_cast<size_t>(layers), layer);
  return {};
}

Status read_activation(const Config& config, std::string_view key, std::string_view fallback,
                       Activation& target) {
  TESSERA_ASSIGN_OR_RETURN(const std::string name, config.string_or(key, fallback));
  std::string known;
  for (const NamedActivation& row : kActivations) {
    if (row.name == name) {
      target = row.activation;
      return {};
    }
    known += fmt::format("{}{}", known.empty() ? "" : ", ", row.name);
  }
  return unsupported(
      fmt::format("{}: {}: expected one of {}, found \"{}\"", config.source(), key, known, name));
}

Status read_eps(const Config& config, std::string_view key, double fallback, float& target) {
  TESSERA_ASSIGN_OR_RETURN(const double eps, config.number_or(key, fallback));
  if (!(eps >= 0 && eps < 1)) {
    return invalid_input(
        fmt::format("{}: {}: expected a number in [0, 1), found {}", config.source(), key, eps));
  }
  target = static_cast<float>(eps);
  return {};
}

Status read_heads(const Config& config, std::string_view heads_key, int32_t hidden_size,
                  LayerRecord& layer) {
  TESSERA_RETURN_IF_ERROR(read_size(config, heads_key, layer.query_heads));
  layer.kv_heads = layer.query_heads;
  if (hidden_size % layer.query_heads != 0) {
    return invalid_input(fmt::format("{}: expected a hidden size that {} heads divide, found {}",
                                     config.source(), layer.query_heads, hidden_size));
  }
  layer.head_size = hidden_size / layer.query_heads;
  return {};
}

Status read_mask(const Config& config, Architecture& architecture) {
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth causal,
                           config.truth_or("is_causal", Config::Truth::kYes));
  architecture.mask = causal == Config::Truth::kYes ? Mask::kCausal : Mask::kNone;
  return {};
}

Status require_truth(const Config& config, std::string_view key, Config::Truth expected,
                     Config::Truth fallback) {
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth found, config.truth_or(key, fallback));
  if (found == expected) return {};
  const std::string_view wanted = expected == Config::Truth::kYes ? "true" : "false";
  return unsupported(fmt::format("{}: {}: expected {}, the only form that Tessera runs",
                                 config.source(), key, wanted));
}

Status read_tying(const Config& config, Config::Truth tied_by_default, HeadNames& head) {
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth tied,
                           config.truth_or("tie_word_embeddings", tied_by_default));
  head.tying = tied == Config::Truth::kYes ? Tying::kTokenEmbedding : Tying::kOwn;
  return {};
}

Status name_decoder_head(const Config& config, const DecoderHead& defaults,
                         Architecture& architecture) {
  HeadNames& head = architecture.names.head;
  switch (architecture.head) {
    case Head::kNone:
      return {};
    case Head::kCausalLm:
      head.output = linear_names_without_bias("/lm_head");
      return read_tying(config, defaults.tied_by_default, head);
    case Head::kSequenceClassification: {
      head.reads = HeadReads::kLastToken;
      head.output = linear_names_without_bias("/score");
      TESSERA_ASSIGN_OR_RETURN(const int64_t padding,
                               config.integer_or("pad_token_id", -1, -1, kMostUnits));
      architecture.head_padding_id = static_cast<int32_t>(padding);
      return {};
    }
    case Head::kTokenClassification:
      head.output = linear_names(defaults.token_classifier);
      return {};
    default:
      return unsupported(fmt::format("{}: Tessera has no such head for {}: {}", config.source(),
                                     architecture.family, architecture.class_name));
  }
}

LinearNames linear_names(const std::string& base, MatrixOrder order) {
  return {{base + ".weight"}, {base + ".bias"}, order};
}
LinearNames linear_names_without_bias(const std::string& base) { return {{base + ".weight"}, {}}; }
NormNames norm_names(const std::string& base) { return {base + ".weight", base + ".bias"}; }

}  // namespace tessera
