#include "model/families/families.h"

// GPT-2 (Radford et al. 2019) and GPT-BigCode (Allal et al. 2023; multi-query attention): pre-norm
// decoders with learned positions.
namespace tessera {
namespace {

Status read_gpt_sizes(const Config& config, Architecture& architecture) {
  architecture.mask = Mask::kCausal;
  architecture.norm_placement = NormPlacement::kPre;
  architecture.norm_kind = norm::Kind::kLayer;
  architecture.ffn = Ffn::kPlain;
  architecture.positions = PositionKind::kLearned;
  TESSERA_RETURN_IF_ERROR(read_eps(config, "layer_norm_epsilon", 1e-5, architecture.norm_eps));
  TESSERA_RETURN_IF_ERROR(read_layer_count(config, "n_layer", architecture.layers));
  TESSERA_RETURN_IF_ERROR(read_size(config, "n_embd", architecture.hidden_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "vocab_size", architecture.vocabulary_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "n_positions", architecture.max_positions));
  TESSERA_RETURN_IF_ERROR(read_heads(config, "n_head", architecture));
  architecture.ffn_size = 4 * architecture.hidden_size;
  if (config.has("n_inner"))
    TESSERA_RETURN_IF_ERROR(read_size(config, "n_inner", architecture.ffn_size));
  TESSERA_RETURN_IF_ERROR(
      require_truth(config, "scale_attn_weights", Config::Truth::kYes, Config::Truth::kYes));
  return require_truth(config, "add_cross_attention", Config::Truth::kNo, Config::Truth::kNo);
}

Status name_gpt_tensors(const Config& config, MatrixOrder order, Architecture& architecture) {
  TensorNames& names = architecture.names;
  names.prefix = "transformer.";
  names.token_embedding = "wte.weight";
  names.position_embedding = "wpe.weight";
  names.final_norm = norm_names("ln_f");
  names.layer.qkv = linear_names("h.{}.attn.c_attn", order);
  names.layer.attention_output = linear_names("h.{}.attn.c_proj", order);
  names.layer.attention_norm = norm_names("h.{}.ln_1");
  names.layer.ffn_in = linear_names("h.{}.mlp.c_fc", order);
  names.layer.ffn_out = linear_names("h.{}.mlp.c_proj", order);
  names.layer.ffn_norm = norm_names("h.{}.ln_2");
  return name_decoder_head(config, {Config::Truth::kYes, "/classifier"}, architecture);
}

}  // namespace

Status read_gpt2(const Config& config, Architecture& architecture) {
  TESSERA_RETURN_IF_ERROR(read_gpt_sizes(config, architecture));
  TESSERA_RETURN_IF_ERROR(
      read_activation(config, "activation_function", "gelu_new", architecture.activation));
  TESSERA_RETURN_IF_ERROR(require_truth(config, "scale_attn_by_inverse_layer_idx",
                                        Config::Truth::kNo, Config::Truth::kNo));
  return name_gpt_tensors(config, MatrixOrder::kInputRows, architecture);
}

Status read_gpt_bigcode(const Config& config, Architecture& architecture) {
  TESSERA_RETURN_IF_ERROR(read_gpt_sizes(config, architecture));
  TESSERA_RETURN_IF_ERROR(
      read_activation(config, "activation_function", "gelu_pytorch_tanh", architecture.activation));
  // With several KV heads this family interleaves Q, K and V head by head.
  TESSERA_RETURN_IF_ERROR(
      require_truth(config, "multi_query", Config::Truth::kYes, Config::Truth::kYes));
  architecture.kv_heads = 1;
  return name_gpt_tensors(config, MatrixOrder::kOutputRows, architecture);
}

}  // namespace tessera
