#include <fmt/format.h>

#include <utility>

#include "model/families/families.h"

// Llama (Touvron et al. 2023) and its kin Mistral, Qwen2 and Qwen3: pre-norm decoders with RMSNorm,
// rotary positions, grouped queries and a gated FFN.
namespace tessera {
namespace {

enum class Biases { kNone, kQkv, kAttention };

// What transformers takes for keys that a config leaves out; 0: derived from the others.
struct Defaults {
  int32_t kv_heads = 0;
  int32_t head_size = 0;
};

Status read_llama_heads(const Config& config, const Defaults& defaults, int32_t hidden_size,
                        LayerRecord& layer) {
  TESSERA_RETURN_IF_ERROR(read_size(config, "num_attention_heads", layer.query_heads));
  layer.head_size = defaults.head_size;
  if (config.has("head_dim")) {
    TESSERA_RETURN_IF_ERROR(read_size(config, "head_dim", layer.head_size));
  } else if (defaults.head_size == 0) {
    TESSERA_RETURN_IF_ERROR(read_heads(config, "num_attention_heads", hidden_size, layer));
  }
  layer.kv_heads = defaults.kv_heads > 0 ? defaults.kv_heads : layer.query_heads;
  if (config.has("num_key_value_heads")) {
    TESSERA_RETURN_IF_ERROR(read_size(config, "num_key_value_heads", layer.kv_heads));
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
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth causal,
                           config.truth_or("is_causal", Config::Truth::kYes));
  architecture.mask = causal == Config::Truth::kYes ? Mask::kCausal : Mask::kNone;
  TESSERA_RETURN_IF_ERROR(read_eps(config, "rms_norm_eps", 1e-6, architecture.norm_eps));
  TESSERA_RETURN_IF_ERROR(read_size(config, "hidden_size", architecture.hidden_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "intermediate_size", layer.ffn_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "vocab_size", architecture.vocabulary_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "max_position_embeddings", architecture.max_positions));
  TESSERA_RETURN_IF_ERROR(read_llama_heads(config, defaults, architecture.hidden_size, layer));
  TESSERA_RETURN_IF_ERROR(read_activation(config, "hidden_act", "silu", layer.activation));
  TESSERA_ASSIGN_OR_RETURN(Rotary rotary, read_rotary(config, {}, layer.head_size));
  architecture.rotaries.push_back(std::move(rotary));
  layer.rotary = 0;
  return {};
}

Status name_llama_tensors(const Config& config, Biases biases, LayerRecord layer,
                          Architecture& architecture) {
  TensorNames& names = architecture.names;
  names.prefix = "model.";
  names.token_embedding = "embed_tokens.weight";
  names.final_norm = {"norm.weight", ""};
  const std::string each = "layers.{}.", attention = each + "self_attn.", mlp = each + "mlp.";
  layer.names.qkv.weights = {attention + "q_proj.weight", attention + "k_proj.weight",
                             attention + "v_proj.weight"};
  if (biases != Biases::kNone) {
    layer.names.qkv.biases = {attention + "q_proj.bias", attention + "k_proj.bias",
                              attention + "v_proj.bias"};
  }
  layer.names.attention_output = biases == Biases::kAttention
                                     ? linear_names(attention + "o_proj")
                                     : linear_names_without_bias(attention + "o_proj");
  layer.names.attention_norm = {each + "input_layernorm.weight", ""};
  layer.names.ffn_in.weights = {mlp + "gate_proj.weight", mlp + "up_proj.weight"};
  layer.names.ffn_out = linear_names_without_bias(mlp + "down_proj");
  layer.names.ffn_norm = {each + "post_attention_layernorm.weight", ""};
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth mlp_bias,
                           config.truth_or("mlp_bias", Config::Truth::kNo));
  if (mlp_bias == Config::Truth::kYes) {
    layer.names.ffn_in.biases = {mlp + "gate_proj.bias", mlp + "up_proj.bias"};
    layer.names.ffn_out.biases = {mlp + "down_proj.bias"};
  }
  TESSERA_RETURN_IF_ERROR(read_layers(config, "num_hidden_layers", layer, architecture));
  return name_decoder_head(config, {Config::Truth::kNo, "/score"}, architecture);
}

Result<Biases> read_biases(const Config& config) {
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth bias,
                           config.truth_or("attention_bias", Config::Truth::kNo));
  return bias == Config::Truth::kYes ? Biases::kAttention : Biases::kNone;
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

// Layers that attend within the window: those that layer_types names, or else from
// max_window_layers on.
Status read_qwen_windows(const Config& config, Architecture& architecture) {
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth used,
                           config.truth_or("use_sliding_window", Config::Truth::kNo));
  if (used == Config::Truth::kNo) return {};
  TESSERA_ASSIGN_OR_RETURN(const int32_t window, read_window(config));
  TESSERA_ASSIGN_OR_RETURN(const int64_t first,
                           config.integer_or("max_window_layers", 28, 0, kMostLayers));
  TESSERA_ASSIGN_OR_RETURN(const std::vector<std::string> types, config.strings("layer_types"));
  const size_t layers = architecture.layers.size();
  if (!types.empty() && types.size() != layers) {
    return invalid_input(fmt::format("{}: layer_types: expected {} entries, found {}",
                                     config.source(), layers, types.size()));
  }
  for (size_t i = 0; i < layers; ++i) {
    if (!types.empty() && types[i] != "full_attention" && types[i] != "sliding_attention") {
      return unsupported(
          fmt::format("{}: layer_types: expected full_attention or sliding_attention, found \"{}\"",
                      config.source(), types[i]));
    }
    const bool windowed =
        types.empty() ? static_cast<int64_t>(i) >= first : types[i] == "sliding_attention";
    architecture.layers[i].window = windowed ? window : 0;
  }
  return {};
}

}  // namespace

Status read_llama(const Config& config, Architecture& architecture) {
  LayerRecord layer;
  TESSERA_RETURN_IF_ERROR(read_llama_sizes(config, {}, architecture, layer));
  TESSERA_ASSIGN_OR_RETURN(const Biases biases, read_biases(config));
  return name_llama_tensors(config, biases, std::move(layer), architecture);
}

Status read_mistral(const Config& config, Architecture& architecture) {
  LayerRecord layer;
  TESSERA_RETURN_IF_ERROR(read_llama_sizes(config, {.kv_heads = 8}, architecture, layer));
  TESSERA_ASSIGN_OR_RETURN(layer.window, read_window(config));
  return name_llama_tensors(config, Biases::kNone, std::move(layer), architecture);
}

Status read_qwen2(const Config& config, Architecture& architecture) {
  LayerRecord layer;
  TESSERA_RETURN_IF_ERROR(read_llama_sizes(config, {.kv_heads = 32}, architecture, layer));
  TESSERA_RETURN_IF_ERROR(name_llama_tensors(config, Biases::kQkv, std::move(layer), architecture));
  return read_qwen_windows(config, architecture);
}

Status read_qwen3(const Config& config, Architecture& architecture) {
  LayerRecord layer;
  TESSERA_RETURN_IF_ERROR(
      read_llama_sizes(config, {.kv_heads = 32, .head_size = 128}, architecture, layer));
  layer.qk_norm = QkNorm::kPerHead;
  layer.names.query_norm = {"layers.{}.self_attn.q_norm.weight", ""};
  layer.names.key_norm = {"layers.{}.self_attn.k_norm.weight", ""};
  TESSERA_ASSIGN_OR_RETURN(const Biases biases, read_biases(config));
  TESSERA_RETURN_IF_ERROR(name_llama_tensors(config, biases, std::move(layer), architecture));
  return read_qwen_windows(config, architecture);
}

}  // namespace tessera
