#include "model/families/families.h"

// BERT (Devlin et al. 2018) and its kin RoBERTa, XLM-RoBERTa and DistilBERT: post-norm encoders
// with learned positions.
namespace tessera {
namespace {

void set_encoder(Architecture& architecture, LayerRecord& layer) {
  architecture.mask = Mask::kNone;
  architecture.norm_kind = norm::Kind::kLayer;
  architecture.norm_eps = 1e-12f;
  layer.ffn = Ffn::kPlain;
}

Status read_bert_sizes(const Config& config, Architecture& architecture, LayerRecord& layer) {
  set_encoder(architecture, layer);
  TESSERA_RETURN_IF_ERROR(
      refuse_nulls(config, {"layer_norm_eps", "hidden_act", "is_decoder", "tie_word_embeddings"}));
  TESSERA_RETURN_IF_ERROR(read_eps(config, "layer_norm_eps", 1e-12, architecture.norm_eps));
  TESSERA_RETURN_IF_ERROR(
      require_truth(config, "is_decoder", Config::Truth::kNo, Config::Truth::kNo));
  TESSERA_RETURN_IF_ERROR(read_size(config, "hidden_size", architecture.hidden_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "intermediate_size", layer.ffn_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "vocab_size", architecture.vocabulary_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "max_position_embeddings", architecture.max_positions));
  TESSERA_RETURN_IF_ERROR(read_size(config, "type_vocab_size", architecture.type_vocabulary_size));
  TESSERA_RETURN_IF_ERROR(
      read_heads(config, "num_attention_heads", architecture.hidden_size, layer));
  TESSERA_ASSIGN_OR_RETURN(const std::string kind,
                           config.string_or("position_embedding_type", "absolute"));
  if (kind != "absolute") {
    return unsupported(config.source() + ": position_embedding_type: expected absolute, found \"" +
                       kind + "\"");
  }
  return read_activation(config, "hidden_act", "gelu", layer.activation);
}

void name_bert_tensors(TensorNames& names, LayerNames& layer) {
  names.token_embedding = "embeddings.word_embeddings.weight";
  names.position_embedding = "embeddings.position_embeddings.weight";
  names.type_embedding = "embeddings.token_type_embeddings.weight";
  names.embedding_norm = norm_names("embeddings.LayerNorm");
  const std::string each = "encoder.layer.{}.", self = each + "attention.self.";
  layer.qkv = {{self + "query.weight", self + "key.weight", self + "value.weight"},
               {self + "query.bias", self + "key.bias", self + "value.bias"}};
  layer.attention_output = linear_names(each + "attention.output.dense");
  layer.attention_sum_norm = norm_names(each + "attention.output.LayerNorm");
  layer.ffn_in = linear_names(each + "intermediate.dense");
  layer.ffn_out = linear_names(each + "output.dense");
  layer.ffn_sum_norm = norm_names(each + "output.LayerNorm");
}

// What the masked-LM heads of the kin call their tensors.
struct MaskedLmNames {
  std::string transform, norm, output, shared_bias;
  std::string activation_key;  // in config.json; empty: always gelu
};

Status name_masked_lm(const Config& config, const MaskedLmNames& names, HeadNames& head) {
  head.transform = linear_names(names.transform);
  head.activation = Activation::kGeluErf;
  if (!names.activation_key.empty()) {
    TESSERA_RETURN_IF_ERROR(read_activation(config, names.activation_key, "gelu", head.activation));
  }
  head.norm = norm_names(names.norm);
  head.output = linear_names(names.output);
  head.shared_bias = names.shared_bias;
  return read_tying(config, Config::Truth::kYes, head);
}

void name_sequence_classifier(const std::string& transform, Activation activation,
                              const std::string& output, HeadNames& head) {
  head.reads = HeadReads::kFirstToken;
  head.transform = linear_names(transform);
  head.activation = activation;
  head.output = linear_names(output);
}

// The heads that the kin name alike.
Status name_common_head(const Config& config, const Architecture& architecture, HeadNames& head) {
  switch (architecture.head) {
    case Head::kNone:
      return {};
    case Head::kTokenClassification:
      head.output = linear_names("/classifier");
      return {};
    case Head::kQuestionAnswering:
      head.output = linear_names("/qa_outputs");
      return {};
    default:
      return unsupported(config.source() + ": Tessera has no such head for " + architecture.family +
                         ": " + architecture.class_name);
  }
}

Status name_bert_head(const Config& config, Architecture& architecture) {
  HeadNames& head = architecture.names.head;
  if (architecture.head == Head::kMaskedLm) {
    return name_masked_lm(
        config,
        {"/cls.predictions.transform.dense", "/cls.predictions.transform.LayerNorm",
         "/cls.predictions.decoder", "/cls.predictions.bias", "hidden_act"},
        head);
  }
  if (architecture.head == Head::kSequenceClassification) {
    name_sequence_classifier("pooler.dense", Activation::kTanh, "/classifier", head);
    return {};
  }
  return name_common_head(config, architecture, head);
}

Status name_roberta_head(const Config& config, Architecture& architecture) {
  HeadNames& head = architecture.names.head;
  if (architecture.head == Head::kMaskedLm) {
    return name_masked_lm(
        config, {"/lm_head.dense", "/lm_head.layer_norm", "/lm_head.decoder", "/lm_head.bias", ""},
        head);
  }
  if (architecture.head == Head::kSequenceClassification) {
    name_sequence_classifier("/classifier.dense", Activation::kTanh, "/classifier.out_proj", head);
    return {};
  }
  return name_common_head(config, architecture, head);
}

Status name_distilbert_head(const Config& config, Architecture& architecture) {
  HeadNames& head = architecture.names.head;
  if (architecture.head == Head::kMaskedLm) {
    return name_masked_lm(config,
                          {"/vocab_transform", "/vocab_layer_norm", "/vocab_projector",
                           "/vocab_projector.bias", "activation"},
                          head);
  }
  if (architecture.head == Head::kSequenceClassification) {
    name_sequence_classifier("/pre_classifier", Activation::kRelu, "/classifier", head);
    return {};
  }
  return name_common_head(config, architecture, head);
}

}  // namespace

Status read_bert(const Config& config, Architecture& architecture) {
  LayerRecord layer;
  TESSERA_RETURN_IF_ERROR(read_bert_sizes(config, architecture, layer));
  architecture.names.prefix = "bert.";
  name_bert_tensors(architecture.names, layer.names);
  TESSERA_RETURN_IF_ERROR(read_layers(config, "num_hidden_layers", layer, architecture));
  return name_bert_head(config, architecture);
}

Status read_roberta(const Config& config, Architecture& architecture) {
  LayerRecord layer;
  TESSERA_RETURN_IF_ERROR(refuse_nulls(config, {"pad_token_id"}));
  TESSERA_RETURN_IF_ERROR(read_bert_sizes(config, architecture, layer));
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
  name_bert_tensors(architecture.names, layer.names);
  TESSERA_RETURN_IF_ERROR(read_layers(config, "num_hidden_layers", layer, architecture));
  return name_roberta_head(config, architecture);
}

Status read_distilbert(const Config& config, Architecture& architecture) {
  LayerRecord layer;
  set_encoder(architecture, layer);
  TESSERA_RETURN_IF_ERROR(refuse_nulls(config, {"activation", "tie_word_embeddings"}));
  TESSERA_RETURN_IF_ERROR(
      read_size(config, spelling(config, "dim", "hidden_size"), architecture.hidden_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "hidden_dim", layer.ffn_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "vocab_size", architecture.vocabulary_size));
  TESSERA_RETURN_IF_ERROR(read_size(config, "max_position_embeddings", architecture.max_positions));
  TESSERA_RETURN_IF_ERROR(read_heads(config, spelling(config, "n_heads", "num_attention_heads"),
                                     architecture.hidden_size, layer));
  TESSERA_RETURN_IF_ERROR(read_activation(config, "activation", "gelu", layer.activation));
  TensorNames& names = architecture.names;
  names.prefix = "distilbert.";
  names.token_embedding = "embeddings.word_embeddings.weight";
  names.position_embedding = "embeddings.position_embeddings.weight";
  names.embedding_norm = norm_names("embeddings.LayerNorm");
  const std::string each = "transformer.layer.{}.", attention = each + "attention.";
  layer.names.qkv = {
      {attention + "q_lin.weight", attention + "k_lin.weight", attention + "v_lin.weight"},
      {attention + "q_lin.bias", attention + "k_lin.bias", attention + "v_lin.bias"}};
  layer.names.attention_output = linear_names(attention + "out_lin");
  layer.names.attention_sum_norm = norm_names(each + "sa_layer_norm");
  layer.names.ffn_in = linear_names(each + "ffn.lin1");
  layer.names.ffn_out = linear_names(each + "ffn.lin2");
  layer.names.ffn_sum_norm = norm_names(each + "output_layer_norm");
  TESSERA_RETURN_IF_ERROR(
      read_layers(config, spelling(config, "n_layers", "num_hidden_layers"), layer, architecture));
  return name_distilbert_head(config, architecture);
}

}  // namespace tessera
