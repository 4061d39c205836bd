#include <utility>

#include "model/families/families.h"

// GPT-2 (Radford et al. 2019) and GPT-BigCode (Allal et al. 2023; multi-query attention): pre-norm
// decoders with learned positions.
namespace tessera {
namespace {

Status read_gpt_sizes(const Config& config, Architecture& architecture, LayerRecord& layer) {
  architecture.norm_kind = norm::Kind::kLayer;
  layer.ffn = Ffn::kPlain;
  TESSERA_RETURN_IF_ERROR(
      refuse_nulls(config, {"layer_norm_epsilon", "activation_function", "scale_attn_weights",
                            "add_cross_attention", "tie_word_embeddings"}));
  TESSERA_RETURN_IF_ERROR(read_mask(config, architecture));
  TESSERA_RETURN_IF_ERROR(read_eps(config, "layer_norm_epsilon", 1e-5, architecture.norm_eps));
  TESSERA_RETURN_IF_ERROR(
      read_size(config, spelling(config, "n_embd", "hidden_size"), architecture.hidden_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "vocab_size", architecture.vocabulary_size));
  TESSERA_RETURN_IF_ERROR(read_size(config,
                                    spelling(config, "n_positions", "max_position_embeddings"),
                                    architecture.max_positions));
  TESSERA_RETURN_IF_ERROR(read_heads(config, spelling(config, "n_head", "num_attention_heads"),
                                     architecture.hidden_size, layer));
  layer.ffn_size = 4 * architecture.hidden_size;
  if (config.has("n_inner")) TESSERA_RETURN_IF_ERROR(read_size(config, "n_inner", layer.ffn_size));
  TESSERA_RETURN_IF_ERROR(
      require_truth(config, "scale_attn_weights", Config::Truth::kYes, Config::Truth::kYes));
  return require_truth(config, "add_cross_attention", Config::Truth::kNo, Config::Truth::kNo);
}

Status name_gpt_tensors(const Config& config, MatrixOrder order, LayerRecord layer,
                        Architecture& architecture) {
  TensorNames& names = architecture.names;
  names.prefix = "transformer.";
  names.token_embedding = "wte.weight";
  names.position_embedding = "wpe.weight";
  names.final_norm = norm_names("ln_f");
  layer.names.qkv = linear_names("h.{}.attn.c_attn", order);
  layer.names.attention_output = linear_names("h.{}.attn.c_proj", order);
  layer.names.attention_norm = norm_names("h.{}.ln_1");
  layer.names.ffn_in = linear_names("h.{}.mlp.c_fc", order);
  layer.names.ffn_out = linear_names("h.{}.mlp.c_proj", order);
  layer.names.ffn_norm = norm_names("h.{}.ln_2");
  TESSERA_RETURN_IF_ERROR(
      read_layers(config, spelling(config, "n_layer", "num_hidden_layers"), layer, architecture));
  return name_decoder_head(config, {Config::Truth::kYes, "/classifier"}, architecture);
}

}  // namespace

Status read_gpt2(const Config& config, Architecture& architecture) {
  LayerRecord layer;
  TESSERA_RETURN_IF_ERROR(read_gpt_sizes(config, architecture, layer));
  TESSERA_RETURN_IF_ERROR(
      read_activation(config, "activation_function", "gelu_new", layer.activation));
  TESSERA_RETURN_IF_ERROR(refuse_nulls(config, {"scale_attn_by_inverse_layer_idx"}));
  TESSERA_RETURN_IF_ERROR(require_truth(config, "scale_attn_by_inverse_layer_idx",
                                        Config::Truth::kNo, Config::Truth::kNo));
  return name_gpt_tensors(config, MatrixOrder::kInputRows, std::move(layer), architecture);
}

Status read_gpt_bigcode(const Config& config, Architecture& architecture) {
  LayerRecord layer;
  TESSERA_RETURN_IF_ERROR(read_gpt_sizes(config, architecture, layer));
  TESSERA_RETURN_IF_ERROR(
      read_activation(config, "activation_function", "gelu_pytorch_tanh", layer.activation));
  TESSERA_RETURN_IF_ERROR(refuse_nulls(config, {"multi_query"}));
  // With several KV heads this family interleaves Q, K and V head by head.
  TESSERA_RETURN_IF_ERROR(
      require_truth(config, "multi_query", Config::Truth::kYes, Config::Truth::kYes));
  layer.kv_heads = 1;
  return name_gpt_tensors(config, MatrixOrder::kOutputRows, std::move(layer), architecture);
}

}  // namespace tessera
