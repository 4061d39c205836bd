#include "model/families/families.h"

// BERT (Devlin et al. 2018) and its kin RoBERTa, XLM-RoBERTa and DistilBERT: post-norm encoders
// with learned positions.
namespace tessera {
namespace {

Status read_encoder_norms(const Config& config, Architecture& architecture) {
  architecture.mask = Mask::kNone;
  architecture.norm_placement = NormPlacement::kPost;
  architecture.norm_kind = norm::Kind::kLayer;
  architecture.ffn = Ffn::kPlain;
  architecture.positions = PositionKind::kLearned;
  return read_eps(config, "layer_norm_eps", 1e-12, architecture.norm_eps);
}

Status read_bert_sizes(const Config& config, Architecture& architecture) {
  TESSERA_RETURN_IF_ERROR(read_encoder_norms(config, architecture));
  TESSERA_RETURN_IF_ERROR(
      require_truth(config, "is_decoder", Config::Truth::kNo, Config::Truth::kNo));
  TESSERA_RETURN_IF_ERROR(read_layer_count(config, "num_hidden_layers", architecture.layers));
  TESSERA_RETURN_IF_ERROR(read_size(config, "hidden_size", architecture.hidden_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "intermediate_size", architecture.ffn_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "vocab_size", architecture.vocabulary_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "max_position_embeddings", architecture.max_positions));
  TESSERA_RETURN_IF_ERROR(read_size(config, "type_vocab_size", architecture.type_vocabulary_size));
  TESSERA_RETURN_IF_ERROR(read_heads(config, "num_attention_heads", architecture));
  TESSERA_ASSIGN_OR_RETURN(const std::string kind,
                           config.string_or("position_embedding_type", "absolute"));
  if (kind != "absolute") {
    return unsupported(config.source() + ": position_embedding_type: expected absolute, found \"" +
                       kind + "\"");
  }
  return read_activation(config, "hidden_act", "gelu", architecture.activation);
}

void name_bert_tensors(TensorNames& names) {
  names.token_embedding = "embeddings.word_embeddings.weight";
  names.position_embedding = "embeddings.position_embeddings.weight";
  names.type_embedding = "embeddings.token_type_embeddings.weight";
  names.embedding_norm = norm_names("embeddings.LayerNorm");
  const std::string layer = "encoder.layer.{}.", self = layer + "attention.self.";
  names.layer.qkv = {{self + "query.weight", self + "key.weight", self + "value.weight"},
                     {self + "query.bias", self + "key.bias", self + "value.bias"}};
  names.layer.attention_output = linear_names(layer + "attention.output.dense");
  names.layer.attention_norm = norm_names(layer + "attention.output.LayerNorm");
  names.layer.ffn_in = linear_names(layer + "intermediate.dense");
  names.layer.ffn_out = linear_names(layer + "output.dense");
  names.layer.ffn_norm = norm_names(layer + "output.LayerNorm");
}

// A masked-LM head's output shares the token embedding unless the config unties it.
Status name_masked_lm_output(const Config& config, const std::string& untied, HeadNames& head) {
  TESSERA_ASSIGN_OR_RETURN(const Config::Truth tied,
                           config.truth_or("tie_word_embeddings", Config::Truth::kYes));
  if (tied == Config::Truth::kNo) head.output = linear_names(untied);
  return {};
}

Status name_bert_head(const Config& config, Head kind, HeadNames& head) {
  switch (kind) {
    case Head::kMaskedLm:
      head.transform = linear_names("/cls.predictions.transform.dense");
      TESSERA_RETURN_IF_ERROR(read_activation(config, "hidden_act", "gelu", head.activation));
      head.norm = norm_names("/cls.predictions.transform.LayerNorm");
      head.output_bias = "/cls.predictions.bias";
      return name_masked_lm_output(config, "/cls.predictions.decoder", head);
    case Head::kSequenceClassification:
      head.reads = HeadReads::kFirstToken;
      head.transform = linear_names("pooler.dense");
      head.activation = Activation::kTanh;
      head.output = linear_names("/classifier");
      return {};
    case Head::kTokenClassification:
      head.output = linear_names("/classifier");
      return {};
    default:
      head.output = linear_names("/qa_outputs");
      return {};
  }
}

Status name_roberta_head(const Config& config, Head kind, HeadNames& head) {
  switch (kind) {
    case Head::kMaskedLm:
      head.transform = linear_names("/lm_head.dense");
      head.activation = Activation::kGeluErf;
      head.norm = norm_names("/lm_head.layer_norm");
      head.output_bias = "/lm_head.bias";
      return name_masked_lm_output(config, "/lm_head.decoder", head);
    case Head::kSequenceClassification:
      head.reads = HeadReads::kFirstToken;
      head.transform = linear_names("/classifier.dense");
      head.activation = Activation::kTanh;
      head.output = linear_names("/classifier.out_proj");
      return {};
    default:
      return name_bert_head(config, kind, head);
  }
}

Status name_distilbert_head(const Config& config, Head kind, HeadNames& head) {
  switch (kind) {
    case Head::kMaskedLm:
      head.transform = linear_names("/vocab_transform");
      TESSERA_RETURN_IF_ERROR(read_activation(config, "activation", "gelu", head.activation));
      head.norm = norm_names("/vocab_layer_norm");
      head.output_bias = "/vocab_projector.bias";
      return name_masked_lm_output(config, "/vocab_projector", head);
    case Head::kSequenceClassification:
      head.reads = HeadReads::kFirstToken;
      head.transform = linear_names("/pre_classifier");
      head.activation = Activation::kRelu;
      head.output = linear_names("/classifier");
      return {};
    default:
      return name_bert_head(config, kind, head);
  }
}

}  // namespace

Status read_bert(const Config& config, Architecture& architecture) {
  TESSERA_RETURN_IF_ERROR(read_bert_sizes(config, architecture));
  architecture.names.prefix = "bert.";
  name_bert_tensors(architecture.names);
  if (architecture.head == Head::kNone) return {};
  return name_bert_head(config, architecture.head, architecture.names.head);
}

Status read_roberta(const Config& config, Architecture& architecture) {
  TESSERA_RETURN_IF_ERROR(read_bert_sizes(config, architecture));
  TESSERA_ASSIGN_OR_RETURN(const int64_t padding,
                           config.integer_or("pad_token_id", 1, 0, kMostUnits));
  architecture.position_padding_id = static_cast<int32_t>(padding);
  architecture.position_offset = static_cast<int32_t>(padding) + 1;
  if (architecture.max_positions <= architecture.position_offset) {
    return invalid_input(config.source() +
                         ": max_position_embeddings: expected more than pad_token_id + 1 = " +
                         std::to_string(architecture.position_offset) + ", found " +
                         std::to_string(architecture.max_positions));
  }
  architecture.max_positions -= architecture.position_offset;
  architecture.names.prefix = "roberta.";
  name_bert_tensors(architecture.names);
  if (architecture.head == Head::kNone) return {};
  return name_roberta_head(config, architecture.head, architecture.names.head);
}

Status read_distilbert(const Config& config, Architecture& architecture) {
  TESSERA_RETURN_IF_ERROR(read_encoder_norms(config, architecture));
  TESSERA_RETURN_IF_ERROR(read_layer_count(config, "n_layers", architecture.layers));
  TESSERA_RETURN_IF_ERROR(read_size(config, "dim", architecture.hidden_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "hidden_dim", architecture.ffn_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "vocab_size", architecture.vocabulary_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "max_position_embeddings", architecture.max_positions));
  TESSERA_RETURN_IF_ERROR(read_heads(config, "n_heads", architecture));
  TESSERA_RETURN_IF_ERROR(read_activation(config, "activation", "gelu", architecture.activation));
  TensorNames& names = architecture.names;
  names.prefix = "distilbert.";
  names.token_embedding = "embeddings.word_embeddings.weight";
  names.position_embedding = "embeddings.position_embeddings.weight";
  names.embedding_norm = norm_names("embeddings.LayerNorm");
  const std::string layer = "transformer.layer.{}.", attention = layer + "attention.";
  names.layer.qkv = {
      {attention + "q_lin.weight", attention + "k_lin.weight", attention + "v_lin.weight"},
      {attention + "q_lin.bias", attention + "k_lin.bias", attention + "v_lin.bias"}};
  names.layer.attention_output = linear_names(attention + "out_lin");
  names.layer.attention_norm = norm_names(layer + "sa_layer_norm");
  names.layer.ffn_in = linear_names(layer + "ffn.lin1");
  names.layer.ffn_out = linear_names(layer + "ffn.lin2");
  names.layer.ffn_norm = norm_names(layer + "output_layer_norm");
  if (architecture.head == Head::kNone) return {};
  return name_distilbert_head(config, architecture.head, names.head);
}

}  // namespace tessera
