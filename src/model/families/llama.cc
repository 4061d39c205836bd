#include <fmt/format.h>

#include <utility>

#include "model/families/families.h"

// Llama (Touvron et al. 2023) and its kin Mistral, Qwen2 and Qwen3: pre-norm decoders with RMSNorm,
// rotary positions, grouped queries and a gated FFN.
namespace tessera {
namespace {

using Truth = Config::Truth;

// Which maps have biases.
struct Biases {
  Truth qkv = Truth::kNo;
  Truth attention_output = Truth::kNo;
  Truth ffn = Truth::kNo;
};

// What transformers takes for keys that a config leaves out; 0: derived from the others.
struct Defaults {
  int32_t max_positions = 0;
  int32_t kv_heads = 0;
  int32_t head_size = 0;
  RotaryDefaults rotary = {};
};

// The floor of hidden_size / heads, where head_dim does not say it.
Status read_head_size(const Config& config, const Defaults& defaults, int32_t hidden_size,
                      LayerRecord& layer) {
  if (config.has("head_dim")) return read_size(config, "head_dim", layer.head_size);
  layer.head_size = defaults.head_size > 0 ? defaults.head_size : hidden_size / layer.query_heads;
  if (layer.head_size > 0) return {};
  return invalid_input(fmt::format("{}: hidden_size: expected at least {}, one a head, found {}",
                                   config.source(), layer.query_heads, hidden_size));
}

Status read_llama_heads(const Config& config, const Defaults& defaults, int32_t hidden_size,
                        LayerRecord& layer) {
  TESSERA_RETURN_IF_ERROR(read_size(config, "num_attention_heads", layer.query_heads));
  TESSERA_RETURN_IF_ERROR(read_head_size(config, defaults, hidden_size, layer));
  layer.kv_heads = layer.query_heads;
  // null means as many as there are queries' heads; the default is for an absent key.
  if (config.has("num_key_value_heads")) {
    TESSERA_RETURN_IF_ERROR(read_size(config, "num_key_value_heads", layer.kv_heads));
  } else if (!config.contains("num_key_value_heads") && defaults.kv_heads > 0) {
    layer.kv_heads = defaults.kv_heads;
  }
  if (layer.query_heads % layer.kv_heads != 0) {
    return invalid_input(
        fmt::format("{}: num_key_value_heads: expected a divisor of {} heads, found {}",
                    config.source(), layer.query_heads, layer.kv_heads));
  }
  return {};
}

Status read_llama_sizes(const Config& config, const Defaults& defaults, Architecture& architecture,
                        LayerRecord& layer) {
  architecture.norm_kind = norm::Kind::kRms;
  layer.ffn = Ffn::kGated;
  TESSERA_RETURN_IF_ERROR(
      refuse_nulls(config, {"hidden_act", "rms_norm_eps", "tie_word_embeddings"}));
  TESSERA_RETURN_IF_ERROR(read_mask(config, architecture));
  TESSERA_RETURN_IF_ERROR(read_eps(config, "rms_norm_eps", 1e-6, architecture.norm_eps));
  TESSERA_RETURN_IF_ERROR(read_size(config, "hidden_size", architecture.hidden_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "intermediate_size", layer.ffn_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "vocab_size", architecture.vocabulary_size));
  TESSERA_RETURN_IF_ERROR(read_llama_heads(config, defaults, architecture.hidden_size, layer));
  TESSERA_RETURN_IF_ERROR(read_activation(config, "hidden_act", "silu", layer.activation));
  RotarySizes sizes{.head_size = layer.head_size};
  TESSERA_RETURN_IF_ERROR(
      read_size_or(config, "max_position_embeddings", defaults.max_positions, sizes.max_positions));
  TESSERA_ASSIGN_OR_RETURN(RotaryReading reading, read_rotary(config, defaults.rotary, sizes));
  architecture.max_positions = reading.max_positions;
  architecture.rotaries.push_back(std::move(reading.rotary));
  layer.rotary = 0;
  return {};
}

Status name_llama_tensors(const Config& config, const Biases& biases, LayerRecord layer,
                          Architecture& architecture) {
  TensorNames& names = architecture.names;
  names.prefix = "model.";
  names.token_embedding = "embed_tokens.weight";
  names.final_norm = {"norm.weight", ""};
  const std::string each = "layers.{}.", attention = each + "self_attn.", mlp = each + "mlp.";
  layer.names.qkv.weights = {attention + "q_proj.weight", attention + "k_proj.weight",
                             attention + "v_proj.weight"};
  if (biases.qkv == Truth::kYes) {
    layer.names.qkv.biases = {attention + "q_proj.bias", attention + "k_proj.bias",
                              attention + "v_proj.bias"};
  }
  layer.names.attention_output = biases.attention_output == Truth::kYes
                                     ? linear_names(attention + "o_proj")
                                     : linear_names_without_bias(attention + "o_proj");
  layer.names.attention_norm = {each + "input_layernorm.weight", ""};
  layer.names.ffn_in.weights = {mlp + "gate_proj.weight", mlp + "up_proj.weight"};
  layer.names.ffn_out = linear_names_without_bias(mlp + "down_proj");
  layer.names.ffn_norm = {each + "post_attention_layernorm.weight", ""};
  if (biases.ffn == Truth::kYes) {
    layer.names.ffn_in.biases = {mlp + "gate_proj.bias", mlp + "up_proj.bias"};
    layer.names.ffn_out.biases = {mlp + "down_proj.bias"};
  }
  TESSERA_RETURN_IF_ERROR(read_layers(config, "num_hidden_layers", layer, architecture));
  return name_decoder_head(config, {Truth::kNo, "/score"}, architecture);
}

// The window's width: transformers' default where the key is absent, 0 where it is null.
Result<int32_t> read_window(const Config& config) {
  constexpr int32_t kDefaultWindow = 4096;
  int32_t window = kDefaultWindow;
  if (config.has("sliding_window")) {
    TESSERA_RETURN_IF_ERROR(read_size(config, "sliding_window", window));
  } else if (config.contains("sliding_window")) {
    window = 0;
  }
  return window;
}

// Gives the layers that layer_types calls sliding the window, and nothing where there is no such
// key. "attention" is the older word for full attention.
Status read_layer_types(const Config& config, int32_t window, std::vector<LayerRecord>& layers) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<std::string> types, config.strings("layer_types"));
  if (!config.has("layer_types")) return {};
  if (types.size() != layers.size()) {
    return invalid_input(fmt::format("{}: layer_types: expected {} entries, found {}",
                                     config.source(), layers.size(), types.size()));
  }
  for (size_t i = 0; i < layers.size(); ++i) {
    layers[i].window = types[i] == "sliding_attention" ? window : 0;
    if (types[i] == "full_attention" || types[i] == "attention" || layers[i].window > 0) continue;
    if (types[i] == "sliding_attention") {
      return invalid_input(fmt::format(
          "{}: layer_types: expected a window (sliding_window, and use_sliding_window in Qwen) for "
          "the sliding attention of layer {}, found none",
          config.source(), i));
    }
    return unsupported(
        fmt::format("{}: layer_types: expected full_attention or sliding_attention, found \"{}\"",
                    config.source(), types[i]));
  }
  return {};
}

// Layers that attend within the window: those that layer_types names, or else from
// max_window_layers on.
Status read_qwen_windows(const Config& config, Architecture& architecture) {
  TESSERA_RETURN_IF_ERROR(refuse_nulls(config, {"use_sliding_window", "max_window_layers"}));
  TESSERA_ASSIGN_OR_RETURN(const Truth used, config.truth_or("use_sliding_window", Truth::kNo));
  TESSERA_ASSIGN_OR_RETURN(const int64_t first,
                           config.integer_or("max_window_layers", 28, 0, kMostLayers));
  int32_t window = 0;
  if (used == Truth::kYes) {
    TESSERA_ASSIGN_OR_RETURN(window, read_window(config));
  }
  for (size_t i = 0; i < architecture.layers.size(); ++i)
    architecture.layers[i].window = static_cast<int64_t>(i) >= first ? window : 0;
  return read_layer_types(config, window, architecture.layers);
}

constexpr RotaryDefaults kRotaryOfTypes = {.layers = RotaryDefaults::Layers::kOfTypes};

}  // namespace

Status read_llama(const Config& config, Architecture& architecture) {
  LayerRecord layer;
  TESSERA_RETURN_IF_ERROR(refuse_nulls(config, {"attention_bias", "mlp_bias"}));
  TESSERA_RETURN_IF_ERROR(read_llama_sizes(config, {.max_positions = 2048}, architecture, layer));
  if (architecture.hidden_size % layer.query_heads != 0) {
    return invalid_input(fmt::format("{}: expected a hidden size that {} heads divide, found {}",
                                     config.source(), layer.query_heads, architecture.hidden_size));
  }
  Biases biases;
  TESSERA_ASSIGN_OR_RETURN(biases.qkv, config.truth_or("attention_bias", Truth::kNo));
  TESSERA_ASSIGN_OR_RETURN(biases.ffn, config.truth_or("mlp_bias", Truth::kNo));
  biases.attention_output = biases.qkv;
  return name_llama_tensors(config, biases, std::move(layer), architecture);
}

// With layer_types it is what transformers calls Ministral.
Status read_mistral(const Config& config, Architecture& architecture) {
  LayerRecord layer;
  TESSERA_RETURN_IF_ERROR(refuse_nulls(config, {"num_key_value_heads"}));
  Defaults defaults{.max_positions = 131072, .kv_heads = 8};
  if (config.contains("layer_types")) defaults.rotary = kRotaryOfTypes;
  TESSERA_RETURN_IF_ERROR(read_llama_sizes(config, defaults, architecture, layer));
  TESSERA_ASSIGN_OR_RETURN(layer.window, read_window(config));
  const int32_t window = layer.window;
  TESSERA_RETURN_IF_ERROR(name_llama_tensors(config, {}, std::move(layer), architecture));
  return read_layer_types(config, window, architecture.layers);
}

Status read_qwen2(const Config& config, Architecture& architecture) {
  LayerRecord layer;
  TESSERA_RETURN_IF_ERROR(refuse_nulls(config, {"head_dim"}));
  TESSERA_RETURN_IF_ERROR(
      read_llama_sizes(config, {.max_positions = 32768, .kv_heads = 32, .rotary = kRotaryOfTypes},
                       architecture, layer));
  TESSERA_RETURN_IF_ERROR(
      name_llama_tensors(config, {.qkv = Truth::kYes}, std::move(layer), architecture));
  return read_qwen_windows(config, architecture);
}

Status read_qwen3(const Config& config, Architecture& architecture) {
  LayerRecord layer;
  TESSERA_RETURN_IF_ERROR(refuse_nulls(config, {"head_dim", "attention_bias"}));
  TESSERA_RETURN_IF_ERROR(read_llama_sizes(
      config, {.max_positions = 32768, .kv_heads = 32, .head_size = 128, .rotary = kRotaryOfTypes},
      architecture, layer));
  layer.qk_norm = QkNorm::kPerHead;
  layer.names.query_norm = {"layers.{}.self_attn.q_norm.weight", ""};
  layer.names.key_norm = {"layers.{}.self_attn.k_norm.weight", ""};
  Biases biases;
  TESSERA_ASSIGN_OR_RETURN(biases.qkv, config.truth_or("attention_bias", Truth::kNo));
  biases.attention_output = biases.qkv;
  TESSERA_RETURN_IF_ERROR(name_llama_tensors(config, biases, std::move(layer), architecture));
  return read_qwen_windows(config, architecture);
}

}  // namespace tessera
